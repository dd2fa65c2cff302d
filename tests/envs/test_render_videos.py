"""Videos for pre-training: another setting does not continue a folder."""

from tests.command_lines import run

LINE = "cameras=[front] image_size=16 randomise=[] episodes=1 random_share=1.0 out="


def test_videos_of_other_settings_are_refused(tmp_path):
    out = tmp_path / "videos"
    done = run("envs.render_videos", f"{LINE}{out}")
    assert done.code == 0, done.err
    assert [path.name for path in out.glob("*.mp4")] == ["seed5000000-front.mp4"]
    assert run("envs.render_videos", f"{LINE}{out}").code == 0  # nothing is rendered again
    other = run("envs.render_videos", f"{LINE}{out} env_id=toto/KukaPick-v0")
    assert other.code != 0
    assert "env_id: 'toto/FrankaPick-v0' != 'toto/KukaPick-v0'" in other.err
