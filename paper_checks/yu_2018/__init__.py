"""Yu and Sabuncu: a convolutional autoencoder with a spatial transformer for volumetric shapes."""

from numerics.claims import Claim, Paper

PAPER = Paper(
    "I",
    "Yu, Sabuncu",
    "A convolutional autoencoder approach to learn volumetric shape representations for brain structures",
    2018,
    "arXiv 1810.07746",
    (
        Claim(
            "grids",
            "The encoder's grids are 80, 40, 20, 10, 5, 1 voxels a side and the decoder's are the same back; the transformer ends in 256 numbers.",
            "read",
            absent={"searched": "The sizes are whole numbers fixed by the architecture, there is nothing to vary."},
        ),
        Claim(
            "layers",
            "Bounds of the layers: 3-D convolution, transposed convolution, instance norm, residual blocks, pooling.",
            "derived",
        ),
        Claim("dice", "The soft Dice coefficient lies in $[0, 1)$.", "unsure"),
        Claim(
            "affine",
            "Nine affine parameters: $M = R_z R_y R_x \\mathrm{diag}(s)$ and a translation, three of each.",
            "derived",
        ),
        Claim("sampler", "Bounds of the trilinear sampler by the image and by the affine map.", "derived"),
        Claim("invariance", "The code is invariant to affine maps of the volume.", "read"),
        Claim(
            "retrieval",
            "The code with alignment retrieves shapes better.",
            "read",
            absent={
                "derived": "Which code a trained network finds is no consequence of its architecture.",
                "searched": "A mean over seeds is estimated with its interval, there is no supremum to search for.",
            },
        ),
    ),
)
