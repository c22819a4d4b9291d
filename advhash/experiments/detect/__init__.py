"""How well abnormal inputs are told from clean ones."""
