"""The networks and what belongs to their first layers: augmentation, whitening, pretrained backbones."""
