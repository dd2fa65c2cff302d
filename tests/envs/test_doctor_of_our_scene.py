from envs import doctor


def test_the_alias_examines_our_scene(capsys, monkeypatch) -> None:
    asked = []

    def examine(env, seconds):
        asked.append((env, seconds))
        return []

    monkeypatch.setattr("toto_robot.doctor.examine", examine)
    assert doctor.main(["seconds=0.5"]) == 0
    assert doctor.main(["env=CartPole-v1"]) == 0
    assert asked == [("envs:toto/FrankaPick-v0", 0.5), ("CartPole-v1", 2.0)]


def test_our_scene_has_two_images_a_step() -> None:
    from toto_robot.doctor import _run_measurement

    result = _run_measurement(doctor.ENVIRONMENT, 0.05)
    assert "error" not in result, result
    assert result["images"] == 2
    assert result["steps_per_s"] > 0
