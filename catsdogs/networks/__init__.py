"""The networks: CNNs, pretrained backbones, data augmentation, PCA-whitening initialization."""
