"""The exported graphs give what torch gives, and run without torch."""

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.toto_robot.encoders.test_contract import check_contract
from tests.toto_robot.visions import toto
from toto_robot import Encoder, TotoConfig, load_encoder, save_encoder
from toto_robot.encoders.exported import ExportedEncoder
from toto_robot.encoders.onnx_runtime import OnnxEncoder, OnnxStream
from toto_robot.encoders.pca import all_features, fit_components
from toto_robot.export import ExportConfig, compare, export, export_onnx
from toto_robot.models import Gpt2Config, MambaConfig
from toto_robot.tokenizers import LightConfig

# torch's exporter warns of its own ways, in several words
pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = (20, 24)


LAYOUT = {"codes": 8192, "tokens_per_frame": 4, "frames": 4}
LLAMA = TotoConfig(
    **LAYOUT,
    dim=16,
    layers=3,
    heads=2,
    mlp_hidden=24,
    tie_embeddings=True,
    rope_base=10000.0,
    norm_eps=1e-5,
)
GPT2 = Gpt2Config(**LAYOUT, dim=16, layers=2, heads=2, mlp_hidden=16, norm_eps=1e-5)
MAMBA = MambaConfig(**LAYOUT, dim=16, layers=2, state=4, expand=2, convolution=4, norm_eps=1e-5)


def tiny(pool="grid2", layer=2, model=LLAMA):
    torch.manual_seed(0)
    tokenizer = LightConfig(
        image_size=16, levels=(8, 8, 8, 4, 4), widths=(8, 8), blocks=(1, 1),
        decoder_widths=(8, 8, 8), decoder_blocks=(1, 1, 1),
    ).build()  # fmt: skip
    transformer = model.build()
    with torch.no_grad():  # so that the past matters
        for parameter in transformer.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12.0)
    return Encoder(tokenizer, transformer, layer=layer, pool=pool)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export_onnx(tiny(), folder, size=SIZE, num_envs=2, context=3, frame_skip=2)
    return folder


def frames(seed):
    return np.random.default_rng(seed).integers(0, 256, (2, *SIZE, 3), np.uint8)


def test_graphs_are_the_encoder_over_episodes_with_resets(exported):
    found = compare(tiny(), exported, 30)
    assert found["frame: share of equal tokens"] > 0.99
    assert found["stream: share of equal tokens"] > 0.99
    assert found["frame: greatest difference"] < 1e-4
    assert found["stream: greatest difference"] < 1e-4


def test_layers_and_principal_components_are_exported(tmp_path):
    encoder = tiny(layer=(0, 2), pool="mean")
    pca = fit_components(all_features(encoder), np.concatenate([frames(k) for k in range(8)]))
    toto = Encoder(encoder.tokenizer, encoder.transformer, (0, 2), "pca3grid2", pca=pca)
    export_onnx(toto, tmp_path, size=SIZE, num_envs=2, context=3)
    found = compare(toto, tmp_path, 8)
    assert found["frame: greatest difference"] < 1e-4
    assert found["stream: greatest difference"] < 1e-4
    opened = ExportedEncoder(tmp_path)
    assert (opened.layer, opened.pool, opened.dim) == ((0, 2), "pca3grid2", 24)


def test_an_export_keeps_the_contract_of_all_encoders(exported):
    encoder = ExportedEncoder(exported)
    images = np.concatenate([frames(0), frames(1)[:1]])  # one and a half of the graph's batches
    check_contract(encoder, images)
    np.testing.assert_allclose(encoder(images), tiny()(images).numpy(), atol=1e-4)
    with pytest.raises(ValueError, match="as the graph was exported"):
        encoder(images[:, 1:])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.parametrize("kind", ["frame", "stream"])
def test_a_forked_session_says_what_to_do_instead_of_waiting(exported, kind):
    """Threads of onnxruntime do not survive a fork."""
    encoder, stream = ExportedEncoder(exported), OnnxStream(exported)
    encoder(frames(0))
    answers, sends = multiprocessing.get_context("fork").Pipe(duplex=False)

    def work():
        try:
            encoder(frames(0)) if kind == "frame" else stream.step(frames(0))
        except RuntimeError as error:
            sends.send(str(error))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    try:
        assert answers.poll(60)
        assert 'start the processes with context="spawn"' in answers.recv()
    finally:
        child.kill()


def test_another_encoder_is_found_out(exported):
    other = tiny()
    with torch.no_grad():
        other.transformer.layers[1].mlp.down_proj.weight.mul_(1.1)
    with pytest.raises(ValueError, match=r"frame\.onnx does not match the encoder: .* differ by"):
        compare(other, exported, 2)


def test_a_stream_remembers_and_forgets_at_a_reset(exported):
    stream, single = OnnxStream(exported), OnnxEncoder(exported)
    first = stream.step(frames(0))
    np.testing.assert_allclose(first, single(frames(0)), atol=1e-5)
    second = stream.step(frames(1))
    assert np.abs(second - single(frames(1))).max() > 1e-2
    mixed = stream.step(frames(2), np.array([True, False]))
    np.testing.assert_allclose(mixed[0], single(frames(2))[0], atol=1e-5)
    assert np.abs(mixed[1] - single(frames(2))[1]).max() > 1e-2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((1, *SIZE, 3), np.uint8), r"uint8 RGB \(2, 20, 24, 3\), .* got uint8 \(1, 20"),
        (np.zeros((2, *SIZE, 3), np.float32), "got float32"),
    ],
)
def test_other_frames_are_refused(exported, given, message):
    for graph in (OnnxEncoder(exported), OnnxStream(exported).step):
        with pytest.raises(ValueError, match=message):
            graph(given)


def test_another_mask_is_refused(exported):
    with pytest.raises(ValueError, match=r"reset must be bool \[2\], got int64 \(2,\)"):
        OnnxStream(exported).step(frames(0), np.array([1, 0]))


def test_an_export_over_an_earlier_one_leaves_nothing_of_it(tmp_path, monkeypatch):
    """Graphs of two encoders are not mixed, also if the second export is interrupted or wrong."""

    def write(graph, inputs, outputs, path):
        if interrupted and path.name == "stream.onnx":
            raise KeyboardInterrupt
        path.write_text("graph")

    monkeypatch.setattr("toto_robot.export._write", write)
    interrupted = False
    export_onnx(tiny(), tmp_path, size=SIZE, context=3)
    interrupted = True
    with pytest.raises(KeyboardInterrupt):
        export_onnx(tiny(layer=1), tmp_path, size=SIZE, context=3)
    with pytest.raises(FileNotFoundError, match="is not an export of toto_robot"):
        OnnxEncoder(tmp_path)
    export_onnx(tiny(), tmp_path, size=SIZE)
    assert not (tmp_path / "stream.onnx").exists()
    with pytest.raises(FileNotFoundError, match="no stream was exported to"):
        OnnxStream(tmp_path)

    def differs(*_):
        raise ValueError("does not match")

    monkeypatch.setattr("toto_robot.export.compare", differs)
    monkeypatch.setattr("toto_robot.export.build_toto", lambda *_: tiny())
    with pytest.raises(ValueError, match="does not match"):
        export(CONFIG, tmp_path)
    assert not (tmp_path / "export.json").exists()


def test_missing_files_are_named(exported, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not an export of toto_robot"):
        OnnxEncoder(tmp_path)
    (tmp_path / "export.json").write_text((exported / "export.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"stream\.onnx is missing: export it"):
        OnnxStream(tmp_path)


def test_the_folder_runs_by_itself_without_torch(exported):
    program = """
import sys
sys.modules["torch"] = sys.modules["toto_robot"] = None  # an import of either is an error
import numpy as np
from onnx_runtime import OnnxEncoder, OnnxStream
frames = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), np.uint8)
stream = OnnxStream(".", threads=1)
stream.step(frames)
print(float(stream.step(frames).sum()), float(OnnxEncoder(".")(frames).sum()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=exported, capture_output=True, text=True, check=True
    )
    stream, single = map(float, done.stdout.split())
    encoder = tiny()
    expected = encoder.stream(2, 3, frame_skip=2)
    expected.step(frames(0))
    assert stream == pytest.approx(float(expected.step(frames(0)).sum()), abs=1e-2)
    assert single == pytest.approx(float(encoder(frames(0)).sum()), abs=1e-2)


CONFIG = ExportConfig(
    encoder=toto(""), height=16, width=16, num_envs=1, context=None,
    frame_skip=1, check_steps=3,
)  # fmt: skip


def test_command_exports_a_checkpoint_with_an_attention_pool(tmp_path, capsys):
    encoder = tiny("attention")
    folder = tmp_path / "encoder"
    save_encoder(folder, encoder.tokenizer, encoder.transformer, layer=2, pool="attention")
    export(replace(CONFIG, encoder=toto(folder)), tmp_path / "out")
    assert "greatest difference" in capsys.readouterr().out
    card = json.loads((tmp_path / "out" / "export.json").read_text())
    assert card["compared"]["frame: greatest difference"] < 1e-4
    assert card["fingerprint"] == load_encoder(folder).fingerprint
    assert not (tmp_path / "out" / "stream.onnx").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"height": 0}, "must be positive"), ({"context": 1}, "context must be at least 2, or null")],
)
def test_impossible_export_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        (tiny().to(torch.bfloat16), {}, "bfloat16"),
        (tiny(), {"context": 5}, r"\[2, 4\] frames, got 5"),
        (tiny(layer=0), {"context": 2}, "layer 0 has no past"),
        (tiny(model=GPT2), {}, "only a model of kind llama can be exported, got gpt2"),
        (tiny(model=MAMBA), {"context": 2}, "only a model of kind llama .* got mamba"),
        (tiny(model=replace(LLAMA, attention="full")), {"context": 2}, "attention=full has no str"),
    ],
)
def test_encoder_that_cannot_be_exported_is_refused(tmp_path, encoder, options, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(encoder, tmp_path, size=SIZE, **options)
    assert not list(tmp_path.iterdir())


def test_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("toto_robot.export.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnx, onnxruntime, onnxscript: pip install 'toto-rob"):
        export_onnx(tiny(), tmp_path, size=SIZE)
