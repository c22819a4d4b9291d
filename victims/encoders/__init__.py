"""Networks of somebody else whose features are cut to bits: timm, transformers."""
