"""The report says what trials show, and no more; all that it links to is there."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from real_robot.trials.conclusions import conclude
from real_robot.trials.images import illustrate
from real_robot.trials.plan import Plan, Trial, keep_plan, make_plan
from real_robot.trials.poses import Pose, PoseArea
from real_robot.trials.report import write_report
from real_robot.trials.results import Judgement, TrialResult, load_invalid
from real_robot.trials.runner import run_trials
from tests.real_robot.fake_records import fake_record

AREA = PoseArea(center_m=(0.5, 0.0), half_m=(0.1, 0.2), yaw_rad=3.0)


def results_of(a, b=None):
    """Return results with these outcomes, pose by pose."""
    outcomes = {"a": a} if b is None else {"a": a, "b": b}
    return [
        TrialResult(
            trial=Trial(
                key=f"{index:03d}-{key}",
                policy=key,
                pose=Pose(x_m=0.5, y_m=0.0, yaw_rad=0.0),
                pose_index=index,
            ),
            judgement=Judgement(success=bool(success), note="", by="check"),
            agent="a fake",
            weights_hash=None,
            reason="time",
            message="",
            started="",
            duration_s=1.0,
            num_steps=10,
            interventions={},
            latency_s=None,
            late_s=None,
            surprise=None,
            episode=None,
            files=(),
        )
        for key, list_ in outcomes.items()
        for index, success in enumerate(list_)
    ]


NAMES = {"a": "ours", "b": "theirs"}


def test_the_papers_own_trials_do_not_tell_the_two_apart() -> None:
    # 12/16 against 10/16, Toto's real arm; how they were paired is not known
    found = conclude(results_of([1] * 12 + [0] * 4, [1] * 9 + [0] * 3 + [1] + [0] * 3), NAMES)
    assert str(found.rates["a"]) == "12/16 = 75.0% (50.5% to 89.8%, Wilson 95 %)"
    comparison = found.comparison
    numbers = (comparison.both, comparison.only_a, comparison.only_b, comparison.neither)
    assert numbers == (9, 3, 1, 3)
    assert comparison.sign_p == pytest.approx(0.625)
    assert comparison.fisher_p == pytest.approx(0.7042511)
    assert found.may_say == (
        "ours succeeds in 51% to 90% of such trials (95 % confidence).",
        "theirs succeeds in 39% to 82% of such trials (95 % confidence).",
    )
    not_better, not_equal, power = found.may_not_say
    assert not_better.startswith("That ours is better than theirs: it won 3 of the 4 pairs")
    assert "That the two are equally good" in not_equal
    assert (
        "two policies at 16 poses, a success rate of 75% is distinguished from 20% or less" in power
    )
    assert re.search(r"62% from 75% only in [456]%: for 80% that takes about 2\d\d poses", power)


def test_a_difference_that_is_there_is_said() -> None:
    found = conclude(results_of([1] * 15 + [0], [0] * 10 + [1] * 6), NAMES)
    assert found.may_say[-1].startswith("ours is better than theirs: it won 10 of the 11 pairs")
    assert not any("better" in sentence for sentence in found.may_not_say)
    turned = conclude(results_of([0] * 10 + [1] * 6, [1] * 15 + [0]), NAMES)
    assert turned.may_say[-1].startswith("theirs is better than ours")
    even = conclude(results_of([1, 0], [0, 1]), NAMES)
    assert "each won 1 of the pairs with different outcomes" in even.may_not_say[0]


def test_one_policy_alone_is_not_its_rate() -> None:
    found = conclude(results_of([1] * 12 + [0] * 4), {"a": "ours"})
    assert found.comparison is None
    assert found.may_say == ("ours succeeds in 51% to 90% of such trials (95 % confidence).",)
    assert found.may_not_say[0].startswith("That its success rate is 75%")
    nothing = conclude([], {"a": "ours"})
    assert str(nothing.rates["a"]).startswith("0/0")
    assert len(conclude([], NAMES).may_say) == 2


def test_pictures_and_video_show_the_episode(tmp_path) -> None:
    assert illustrate(fake_record(), True, tmp_path) == ("first.png", "last.png", "video.mp4")
    first, last = (cv2.imread(str(tmp_path / name)) for name in ("first.png", "last.png"))
    assert first.shape == last.shape == (256, 512, 3)  # two cameras of 16 px, enlarged
    assert not first.any()
    assert (last[100, 100] == 40).all()
    assert last[0, 0].tolist() == [90, 180, 60]  # green, as OpenCV orders it
    with av.open(str(tmp_path / "video.mp4")) as video:
        assert len(list(video.decode(video=0))) == 5 + 8  # ticks, and the last one held
        assert float(video.streams.video[0].average_rate) == pytest.approx(10.0)


def assert_balanced(page):
    """Refuse a page whose elements are not closed in order."""
    open_elements = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img", "br", "rect", "circle", "line"):
                open_elements.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert open_elements.pop() == tag

    Reader().feed(page)
    assert open_elements == []


def test_the_page_holds_together(tmp_path) -> None:
    poses = [Pose(x_m=0.45, y_m=0.1, yaw_rad=0.3), Pose(x_m=0.55, y_m=-0.1, yaw_rad=-0.3)]
    settings = {"weights": {"a": "wa", "b": "wb"}, "note": "<b>&</b>"}
    facts = {"said": ["no pose is nearer than 0.010 m to any of 60 demonstrations"]}
    plan = keep_plan(
        tmp_path,
        settings,
        lambda: make_plan(
            poses, paired=True, rng=np.random.default_rng(0), settings=settings, facts=facts
        ),
    )
    begun = write_report(tmp_path, plan, [], [], title="trials", names=NAMES, area=AREA)
    assert begun.rates["a"].trials == 0
    assert "4 of 4 are still to be done" in (tmp_path / "index.html").read_text()
    judgements = [
        Judgement(success=None, note="<cable>", by="operator"),
        *(Judgement(success=success, note="", by="check") for success in (True, False, True, True)),
    ]

    class Operator:
        def place(self, trial, number, total, overlay):
            overlay.write_bytes(b"")

        def assess(self, trial, record):
            return judgements.pop(0)

    results = run_trials(
        plan,
        tmp_path,
        prepare=lambda: None,
        run=lambda pose, policy: fake_record(weights_hash=f"w{policy}"),
        operator=Operator(),
        keep=lambda record: 7,
        illustrate=illustrate,
        max_invalid=1,
    )
    invalid = load_invalid(tmp_path)
    write_report(tmp_path, plan, results, invalid, title="a & b", names=NAMES, area=AREA)
    page = (tmp_path / "index.html").read_text()
    assert "<title>a &amp; b</title>" in page
    assert "&lt;cable&gt;" in page
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in page
    assert "<cable>" not in page
    assert "no pose is nearer than 0.010 m" in page
    assert page.count("<video") == 5
    assert_balanced(page)
    linked = set(re.findall(r"(?:src|href|poster)='([^']+)'", page))
    assert {Path(link).parts[0] for link in linked} == {"trials", "spoilt", "plan.json"}
    assert [link for link in linked if not (tmp_path / link).is_file()] == []
    assert len(re.findall(r"<g><title>00\d-[ab]:[^<]*(?:success|failure)", page)) == 4
    summary = json.loads((tmp_path / "results.json").read_text())
    assert summary["rates"]["a"]["trials"] == summary["rates"]["b"]["trials"] == 2
    assert summary["spoilt"] == 1
    assert summary["comparison"]["both"] + summary["comparison"]["neither"] <= 2


def test_a_trial_is_a_card_with_its_video_failures_first_at_any_width(tmp_path) -> None:
    pose = Pose(x_m=0.4567891, y_m=-0.1234567, yaw_rad=-0.3)
    results = [
        replace(
            result,
            trial=replace(result.trial, pose=pose),
            files=("first.png", "last.png", "video.mp4"),
            interventions={"velocity": 4},
        )
        for result in results_of([1, 0, 1, 0])
    ]
    invalid = replace(results[1], judgement=Judgement(success=None, note="fell", by="operator"))
    plan = Plan(settings={}, facts={}, trials=tuple(result.trial for result in results))
    write_report(tmp_path, plan, results, [invalid] * 2, title="x", names={"a": "ours"}, area=AREA)
    page = (tmp_path / "index.html").read_text()
    before, *cards = re.split("<article class='trial'>", page)

    # the success rate comes before all else, with its n and its interval
    rate = before.index("2 of 4 trials succeeded; 95% confidence interval 15.0% to 85.0% (Wilson)")
    assert rate < before.index("Poses from above") < before.index("Failures (2)")
    heads = [re.search(r"<h4><span class='(\w+)'>\1</span> ([^ <]+)<", c).groups() for c in cards]
    assert heads == [
        ("failure", "001-a"),
        ("failure", "003-a"),
        ("success", "000-a"),
        ("success", "002-a"),
        ("invalid", "001-a"),
        ("invalid", "001-a"),
    ]
    for (_, key), place, card in zip(heads, ["trials"] * 4 + ["spoilt"] * 2, cards, strict=True):
        assert "<p class='pose'>x 0.457 m, y -0.123 m, yaw -17 deg</p>" in card
        assert "velocity 4 of 10 steps" in card
        (video,) = re.findall("<video [^>]+>", card)
        assert f"src='{place}/{key}" in video
        assert "preload='none'" in video
        assert "poster='" in video
    assert ["001-a-1/" in cards[4], "001-a-2/" in cards[5]] == [True, True]
    assert re.search(r"\.pose \{[^}]*white-space: nowrap", page)

    # a phone shows it whole, and without a network
    fixed = re.findall(r"(?<![-\w])(?:min-)?width(?:: *|=')([\d.]+)(px|em|')", page)
    assert fixed
    assert all(float(size) * (15 if unit == "em" else 1) <= 400 for size, unit in fixed)
    for least in re.findall(r"minmax\(([^,]+(?:, [\d.]+em\))?)", page):
        assert least.startswith("min(100%")
    assert "<table" not in cards[0]
    assert "//" not in page
    assert "@import" not in page


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script src=//x></script>",
    "'><img src=x onerror='alert(1)'>",
    '"><svg onload="alert(1)">',
    "' onmouseover='alert(1)' x='",
    "</td></tr></table></body></html><p>",
    "<!-- ",
    "<![CDATA[ x ]]><?php ?>",
    "&lt;b&gt; &amp; &#60;i&#62;",
    "javascript:alert(1)",
    "../../../etc/passwd?x#y%2e",
    "half a \ud800 character",
    "\udcff<b>",
    "\x00<\x00script>\x1b[2J",
    "<textarea><title><style>",
    "\u202e<b>",
    "",
]


class Outline(HTMLParser):
    """The elements of a page with their attributes, the links apart, and all its text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.links, self.text = [], [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        named = [(name, None if name in ("href", "src", "poster") else v) for name, v in attrs]
        self.elements.append((tag, tuple(named)))
        self.links += [value for name, value in attrs if name in ("href", "src", "poster")]

    def handle_endtag(self, tag):
        self.elements.append(f"/{tag}")

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.elements.append("comment")

    def handle_pi(self, data):
        self.elements.append("instruction")

    def unknown_decl(self, data):
        self.elements.append("declaration")


def page_with(folder, words, *, note=None):
    """Write a report in which all that may come from elsewhere says `words`."""
    trial = Trial(key=words, policy="a", pose=Pose(x_m=0.5, y_m=0.0, yaw_rad=0.0), pose_index=0)
    result = TrialResult(
        trial=trial,
        judgement=Judgement(success=True, note=words or "x", by=words),
        agent=words,
        weights_hash=words,
        reason=words,
        message=words,
        started=words,
        duration_s=words,
        num_steps=words,
        interventions={words: words},
        latency_s=(words, words),
        late_s=words,
        surprise=None,
        episode=words,
        files=("first.png", "last.png", "video.mp4", "overlay.png"),
    )
    noted = replace(result, judgement=Judgement(success=False, note=words or "x", by="operator"))
    invalid = replace(result, judgement=Judgement(success=None, note=words or "x", by="operator"))
    plan = Plan(
        settings={words: words, "nested": [{words: words}]},
        facts={"said": [words], words: words},
        trials=(trial,),
    )
    folder.mkdir()
    results = [result, noted]
    write_report(folder, plan, results, [invalid], title=words, names={"a": words}, area=AREA)
    raw = (folder / "index.html").read_bytes()
    assert json.loads((folder / "results.json").read_text())["trials_done"] == 2
    return raw.decode()  # it is UTF-8


@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_that_anybody_wrote_becomes_a_part_of_the_page(tmp_path, words) -> None:
    calm = Outline(page_with(tmp_path / "calm", "calm words"))
    page = page_with(tmp_path / "hostile", words)
    found = Outline(page)
    if words:
        assert found.elements == calm.elements
    assert not {tag for tag, *_ in found.elements} & {"script", "iframe", "object", "form"}
    for link in found.links:
        assert re.fullmatch(r"plan\.json|(trials|spoilt)/[\w%.-]*/(\w+\.\w+)", link), link
        assert link.count("/") in (0, 2)
    shown = re.sub(
        r"[\x00-\x08\x0e-\x1f]", "\ufffd", words.encode(errors="backslashreplace").decode()
    )
    assert found.text.count(shown) >= 12  # as it was written, and nothing of it lost
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", page)


def test_half_a_character_in_a_note_goes_through_all_of_an_evaluation(tmp_path, capsys) -> None:
    plan = keep_plan(
        tmp_path,
        {"weights": {"a": "wa"}},
        lambda: make_plan(
            [Pose(x_m=0.45, y_m=0.1, yaw_rad=0.3)],
            paired=False,
            rng=np.random.default_rng(0),
            settings={"weights": {"a": "wa"}},
            facts={"said": []},
        ),
    )
    evaluated = [(None, "a cable \ud83d fell"), (True, "\udcff")]

    class Operator:
        def place(self, trial, number, total, overlay):
            overlay.write_bytes(b"")

        def assess(self, trial, record):
            success, note = evaluated.pop(0)
            return Judgement(success=success, note=note, by="operator")

    told = []
    results = run_trials(
        plan,
        tmp_path,
        prepare=lambda: None,
        run=lambda pose, policy: fake_record(weights_hash="wa"),
        operator=Operator(),
        keep=lambda record: told.append(json.dumps(dict(record.notes)).encode()) or 7,
        illustrate=illustrate,
        max_invalid=1,
        on_result=lambda result: told.append(result.judgement.note.encode()),
    )
    assert b"a cable \\ud83d fell" in told[1]
    invalid = load_invalid(tmp_path)
    write_report(tmp_path, plan, results, invalid, title="x", names={"a": "one"}, area=AREA)
    assert "a cable \\ud83d fell" in (tmp_path / "index.html").read_text()
