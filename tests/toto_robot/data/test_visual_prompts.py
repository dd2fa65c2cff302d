"""`toto-robot visual_prompts`: tasks, division and faults; a fine-tuned model follows a prompt."""

import cv2
import numpy as np
import pytest

from tests.command_lines import run
from tests.toto_robot.tiny import tiny_toto
from toto_robot.data.images import read_square
from toto_robot.data.shards import Shard, split
from toto_robot.encoders.loading import save_encoder

MODULE = "toto_robot.data.visual_prompts"


def write_images(folder, count=45, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        coarse = rng.integers(0, 255, (4, 6, 3), np.uint8)
        image = cv2.resize(coarse, (48, 32), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"{i:03}.png"), image)


def test_inputs_and_targets_of_each_task(tmp_path):
    write_images(tmp_path / "data")
    words = f"data={tmp_path}/data out={tmp_path}/out image_size=32 examples=2 sequences=24 "
    done = run(MODULE, words + "test_sequences=2")
    assert done.code == 0, done.err
    shard = Shard.open(tmp_path / "out")
    frames = shard.frames().reshape(24, 2, 2, 32, 32, 3)  # sequence, example, input and target
    files = sorted((tmp_path / "data").iterdir())
    originals = {read_square(file, 32, 0.5, 0.5).tobytes(): i for i, file in enumerate(files)}
    used, tasks = set(), [clip["file"].split("-")[1] for clip in shard.manifest["clips"]]
    assert len(set(tasks)) == 6
    for task, sequence in zip(tasks, frames, strict=True):
        for given, target in sequence:
            whole = given if task in ("edges", "rotate", "mirror") else target
            used.add(originals[whole.tobytes()])
            if task == "rotate":
                assert np.array_equal(np.rot90(given), target)
            elif task == "mirror":
                assert np.array_equal(given[:, ::-1], target)
            elif task == "edges":
                assert set(np.unique(target)) == {0, 255}
            elif task == "colour":
                assert np.array_equal(given[..., 0], cv2.cvtColor(target, cv2.COLOR_RGB2GRAY))
            elif task == "fill":
                hidden = (given != target).any(-1)
                assert 0.1 < hidden.mean() < 0.2
                assert (given[hidden] == 128).all()
            else:
                assert np.abs(np.diff(given.astype(int), axis=0)).max() < 150
                assert not np.array_equal(given, target)
    assert used.isdisjoint({20, 41})  # every 21st image is for tests
    assert len(split(shard, validation=True)) == 1
    tested = sorted(path.name for path in (tmp_path / "out/test/mirror-1").iterdir())
    assert tested == ["00-input.png", "01-target.png", "02-input.png", "03-target.png"]
    first = read_square(tmp_path / "out/test/mirror-1/00-input.png", 32, 0.5, 0.5)
    assert originals[first.tobytes()] in {20, 41}
    again = run(MODULE, words.replace("/out ", "/again ") + "test_sequences=2")
    assert again.code == 0
    assert np.array_equal(Shard.open(tmp_path / "again").frames(), shard.frames())


def test_a_fine_tuned_model_follows_the_prompt(tmp_path):
    """Targets are black in one task and white in the other: only the prompt shows which."""
    rng = np.random.default_rng(0)
    for task, level in (("black", 0), ("white", 255)):
        for part in ("input", "target"):
            (tmp_path / f"pairs/{task}/{part}").mkdir(parents=True)
        for i in range(43):
            noise = rng.integers(0, 255, (16, 16, 3), np.uint8)
            plain = np.full((16, 16, 3), level, np.uint8)
            cv2.imwrite(str(tmp_path / f"pairs/{task}/input/{i}.png"), noise)
            cv2.imwrite(str(tmp_path / f"pairs/{task}/target/{i}.png"), plain)
    made = tiny_toto(16)
    save_encoder(tmp_path / "tiny", made.tokenizer, made.transformer, 1, "grid2")
    words = f"data=null tasks=[] pairs={tmp_path}/pairs out={tmp_path}/prompts image_size=16 "
    done = run(MODULE, f"{words} examples=2 sequences=60 test_sequences=2")
    assert done.code == 0, done.err
    done = run(
        "toto_robot.finetune",
        f"start_from={tmp_path}/tiny data={tmp_path}/prompts out={tmp_path}/run adapt=all frames=4 "
        "steps=300 batch=8 part=8 optimizer.lr=0.01 layer_decay=1 engine.log_every=300 "
        "engine.keep_every=300 validation_rows=0",
    )
    assert done.code == 0, done.err
    right = {}
    for encoder in ("tiny", "run/encoder"):
        for task in ("black", "white"):
            out = tmp_path / f"out-{encoder[:3]}-{task}"
            done = run(
                "toto_robot.generate",
                f"encoder={tmp_path}/{encoder} prompt={tmp_path}/prompts/test/{task}-0 "
                f"prompt_frames=3 frames=1 samples=1 temperature=0 out={out}",
            )
            assert done.code == 0, done.err
            found = np.load(out / "tokens.npz")
            right[encoder, task] = (found["predicted"][0, 0] == found["truth"][0]).mean()
    assert right["run/encoder", "black"] == right["run/encoder", "white"] == 1
    assert max(right["tiny", "black"], right["tiny", "white"]) < 1


def unpaired(folder):
    for part in ("input", "target"):
        write_images(folder / f"pairs/depth/{part}")
    (folder / "pairs/depth/target/007.png").unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tasks=[edge]", "tasks: ['edge'] are not among ['colour', 'edges'"),
        ("data=null", "without data, tasks must be empty"),
        ("examples=1", "examples must be at least 2, got 1"),
        ("data=nowhere", "nowhere is not a folder of images"),
        ("examples=3", "has 45 images, too few for sequences of 3 examples: one of 21 images is"),
        ("pairs={}/data", "data has no subfolder"),
        ("pairs={}/pairs", "input/007.png has no target"),
        ("test_sequences=0 damage=1", "003.png: not a readable image"),
    ],
)
def test_wrong_settings_and_data_are_named(tmp_path, words, message):
    write_images(tmp_path / "data")
    unpaired(tmp_path)
    if "damage" in words:
        (tmp_path / "data/003.png").write_bytes(b"x" * 50)
        words = words.replace(" damage=1", "")
    settings = "image_size=32 examples=2 sequences=40 test_sequences=1"
    done = run(
        MODULE,
        f"data={tmp_path}/data out={tmp_path}/out {settings} " + words.replace("{}", str(tmp_path)),
    )
    assert done.code == 1
    assert message in done.err
    assert "Traceback" not in done.err
