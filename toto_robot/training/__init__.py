"""Training of tokenizers and transformers."""
