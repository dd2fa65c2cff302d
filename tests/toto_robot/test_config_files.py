import sys

from toto_robot.config_files import LIBRARY, search_path


def test_a_packages_own_folder_is_found_without_importing_it(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "my_commands" / "configs"
    folder.mkdir(parents=True)
    (tmp_path / "my_commands" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert search_path("my_commands.play")[:2] == [LIBRARY, folder]
    assert "my_commands" not in sys.modules
    assert search_path("no_such_package.play") == search_path(None)
