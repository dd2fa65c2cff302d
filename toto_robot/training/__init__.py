"""Train tokenizers, transformers and masked autoencoders."""
