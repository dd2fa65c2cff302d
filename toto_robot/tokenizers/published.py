"""Load tokenizers from the files of their authors: OpenAI's dVAE, FLAVA's codebook, VQGAN.

    tokenizer = load_dalle((Path("encoder.pkl"), Path("decoder.pkl")), image_size=128)

OpenAI's two files are pickled modules. `unpickle` reads them without running their code, and
without the packages ``dall_e`` and ``attrs``. FLAVA's image codebook also contains OpenAI's
encoder, as a state dict. VQGAN's files are Lightning checkpoints.

All sizes of the models are computed from the shapes of the tensors. Each tensor in a file must be
known: it is used, or it is on a list of tensors that are not needed.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .dvae import DalleConfig, DalleDVae
from .unpickle import read_state
from .vqgan import Vqgan, VqganConfig

__all__ = ["load_dalle", "load_vqgan"]

# classes in the pickled modules of the package dall_e 0.1
DALLE_CLASSES = (
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.decoder.Decoder",
    "dall_e.decoder.DecoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
)
# classes that are keys of callback states in Lightning checkpoints
LIGHTNING_CLASSES = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
)
FLAVA = "image_codebook."  # prefix of the codebook within a whole FLAVA


def load_dalle(files: Sequence[Path], image_size: int) -> DalleDVae:
    """Load the tokenizer of DALL-E, OpenAI's discrete VAE.

    Args:
        files: file of the encoder and, if tokens will be decoded to images, file of the decoder.
            A file is OpenAI's pickled module, or its state dict as safetensors or torch file. The
            encoder may also be FLAVA's image codebook, alone or in a complete FLAVA model.
        image_size: side of the square to which frames are resized, pixels; 128 makes 16 x 16
            tokens.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: there are more than two files or none, or a file does not contain such a
            tokenizer; the message says what it contains.
    """
    if not 1 <= len(files) <= 2:
        raise ValueError(f"expected the encoder's file, or encoder and decoder, got {len(files)}")
    halves = [_dalle_names(read_state(file, DALLE_CLASSES)) for file in files]
    encoder = halves[0]
    weight = _needed(files[0], encoder, "blocks.input.w")
    blocks = {match[1] for name in encoder if (match := re.match(r"blocks\.group_1\.(\w+)", name))}
    decoder_init = None
    if len(halves) == 2:
        decoder_init = len(_needed(files[1], halves[1], "blocks.input.w"))
    config = DalleConfig(
        image_size=image_size,
        hidden=len(weight),
        decoder_init=decoder_init,
        blocks_per_group=max(1, len(blocks)),
        vocab_size=len(_needed(files[0], encoder, "blocks.output.conv.w")),
    )
    with torch.device("meta"):
        dalle = config.build()
    _load(files[0], dalle.encoder, encoder, "the encoder")
    if dalle.decoder is not None:
        _load(files[1], dalle.decoder, halves[1], "the decoder")
    return dalle.requires_grad_(False).eval()


def load_vqgan(file: Path, image_size: int) -> Vqgan:
    """Load a VQGAN of taming-transformers from its Lightning checkpoint or state dict.

    Weights that only the training uses are ignored: the discriminator and the perceptual network,
    whose names begin with ``loss.``. All sizes, and the levels with attention, are found from the
    names and shapes of the weights.

    Args:
        file: path of the checkpoint.
        image_size: side of the square to which frames are resized, pixels; 256 makes 16 x 16
            tokens.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file does not contain such a tokenizer; the message says what it contains.
    """
    weights = {
        name: tensor
        for name, tensor in read_state(file, LIGHTNING_CLASSES).items()
        if not name.startswith("loss.")
    }
    codebook = _needed(file, weights, "quantize.embedding.weight")
    first = _needed(file, weights, "encoder.conv_in.weight")
    levels = 1 + max(_numbers(weights, r"encoder\.down\.(\d+)\."), default=0)
    ends = [_needed(file, weights, f"encoder.down.{i}.block.0.conv1.weight") for i in range(levels)]
    config = VqganConfig(
        image_size=image_size,
        width=len(first),
        multipliers=tuple(len(end) // len(first) for end in ends),
        blocks=1 + max(_numbers(weights, r"encoder\.down\.0\.block\.(\d+)\."), default=0),
        attention_levels=tuple(sorted(_numbers(weights, r"encoder\.down\.(\d+)\.attn\."))),
        latent=len(_needed(file, weights, "encoder.conv_out.weight")),
        embedding=codebook.shape[1],
        vocab_size=len(codebook),
    )
    with torch.device("meta"):
        vqgan = config.build()
    _load(file, vqgan, weights, "VQGAN")
    return vqgan.requires_grad_(False).eval()


def _dalle_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace FLAVA's names of weights by OpenAI's names."""
    if any(name.startswith(FLAVA) for name in state):
        state = {
            name.removeprefix(FLAVA): tensor
            for name, tensor in state.items()
            if name.startswith(FLAVA)
        }
    if not any(name.startswith("blocks.group_1.group.") for name in state):
        return dict(state)
    renamed = {}
    for name, tensor in state.items():
        short = re.sub(r"^(blocks\.group_\d+)\.group\.", r"\1.", name)
        short = short.replace(".res_path.path.", ".res_path.")
        short = re.sub(r"\.weight$", ".w", re.sub(r"\.bias$", ".b", short))
        renamed[short] = tensor
    return renamed


def _load(file: Path, module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load weights as float32 into a module that was built on the meta device.

    Raises:
        ValueError: names or shapes differ; the message lists them.
    """
    needed = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing, unexpected = sorted(set(needed) - set(weights)), sorted(set(weights) - set(needed))
    wrong = [
        f"{name} {tuple(weights[name].shape)}, needed {shape}"
        for name, shape in needed.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if missing or unexpected or wrong:
        raise ValueError(
            f"{file} is not {what}: missing {missing}, unexpected {unexpected}, wrong {wrong}"
        )
    copies = {name: tensor.float().clone() for name, tensor in weights.items()}
    module.load_state_dict(copies, assign=True)


def _needed(file: Path, weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise ValueError(f"{file} has no {name}; it has {sorted(weights)[:5]} ...")
    return weights[name]


def _numbers(weights: Mapping[str, Tensor], pattern: str) -> set[int]:
    return {int(match[1]) for name in weights if (match := re.match(pattern, name))}
