"""Images keep their labels, are resized, normalised, cropped and flipped as stated, and bad ones are refused by name."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor

from numerics.device import generator
from numerics.images import (
    Images,
    Normalisation,
    digits_images,
    divided,
    grey_to_channels,
    normalised,
    random_crop,
    random_flip,
    resized,
    shaped,
)


def some_bytes(samples: int = 6, channels: int = 3, side: int = 5) -> Images:
    pixels = torch.randint(256, (samples, channels, side, side), dtype=torch.uint8, generator=generator(0))
    return Images(pixels, torch.arange(samples) % 3, 3, ("a", "b", "c"), "a test")


LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("pixels", "labels", "classes", "names", "words"),
    [
        (torch.zeros(2, 4, 4), LABELS, 2, (), r"float32 of shape \(2, 4, 4\): give uint8 or float32"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.float64), LABELS, 2, (), "float64.*give uint8 or float32"),
        (torch.zeros(2, 1, 0, 4), LABELS, 2, (), "at least one image of one pixel"),
        (torch.zeros(0, 1, 4, 4), LABELS[:0], 2, (), "at least one image of one pixel"),
        (torch.zeros(2, 1, 4, 4), LABELS, 1, (), "1 classes: at least 2"),
        (torch.zeros(3, 1, 4, 4), LABELS, 2, (), r"int64 of shape \(3,\)"),
        (torch.zeros(2, 1, 4, 4), LABELS.int(), 2, (), "int32.*give int64"),
        (torch.zeros(2, 1, 4, 4), LABELS + 1, 2, (), r"1 \.\. 2: they must lie in 0 \.\. 1"),
        (torch.zeros(2, 1, 4, 4), LABELS - 1, 2, (), r"-1 \.\. 0: they must lie in 0 \.\. 1"),
        (torch.zeros(2, 1, 4, 4), LABELS, 2, ("a",), "1 names for 2 classes"),
    ],
)
def test_malformed_images_are_refused(
    pixels: Tensor, labels: Tensor, classes: int, names: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Images(pixels, labels, classes, names)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_first_pixel_that_is_not_finite_is_named(value: float) -> None:
    pixels = torch.zeros(2, 1, 4, 4)
    pixels[1, 0, 2, 3] = pixels[1, 0, 3, 0] = value
    with pytest.raises(ValueError, match=r"pixels\[1, 0, 2, 3\] = (nan|-?inf) \(of image 1\)"):
        Images(pixels, LABELS, 2)


def test_bytes_stay_bytes_until_values_are_asked_for() -> None:
    images = some_bytes()
    assert images.pixels.dtype == images.subset([0]).pixels.dtype == torch.uint8
    for dtype in (torch.float32, torch.float64):
        assert images.values(dtype).dtype == dtype
        assert torch.equal(images.values(dtype), images.pixels.to(dtype) / 255)
    numbers = Images(images.values(), images.labels, 3)
    assert torch.equal(numbers.values(), numbers.pixels)


def test_a_subset_keeps_order_labels_and_repetitions() -> None:
    images = some_bytes()
    for indices in ([4, 0, 4], torch.tensor([4, 0, 4])):
        part = images.subset(indices)
        assert torch.equal(part.pixels, torch.stack([images.pixels[i] for i in (4, 0, 4)]))
        assert part.labels.tolist() == [1, 0, 1]
        assert (part.names, part.source, part.shape, len(part)) == (images.names, images.source, (3, 5, 5), 3)
    assert torch.equal(images.batch([2]).pixels, images.pixels[2:3])


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([], "at least one"),
        ([[0]], "give a list"),
        ([6], r"index 6 is outside 0 \.\. 5"),
        ([0, -1], r"index -1 is outside"),
        ([0.0], "give integers"),
        ([True] * 6, "of a mask"),
    ],
)
def test_indices_that_choose_nothing_or_too_far_are_refused(indices: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        some_bytes().subset(indices)


def test_the_seed_decides_the_choice_of_distinct_images() -> None:
    images = digits_images()
    first, again, other = images.chosen(32, 1), images.chosen(32, 1), images.chosen(32, 2)
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)
    assert len({tuple(image) for image in first.pixels.flatten(1).tolist()}) == 32
    assert sorted(images.chosen(1797, 0).pixels.flatten().tolist()) == sorted(images.pixels.flatten().tolist())
    for samples in (0, 1798):
        with pytest.raises(ValueError, match=f"samples = {samples}: between 1 and 1797"):
            images.chosen(samples, 0)


def test_images_travel_to_another_process_and_device() -> None:
    images = some_bytes()
    copied = pickle.loads(pickle.dumps(images)).to("cpu")
    assert torch.equal(copied.pixels, images.pixels)
    assert torch.equal(copied.labels, images.labels)


# Sizes and channels


def test_resizing_is_bilinear_with_half_pixel_centres() -> None:
    """Doubling a row a, b gives a, (3a + b)/4, (a + 3b)/4, b; halving by antialiasing weighs four places 1, 3, 3, 1, where
    the ends of the row are renormalised to 3, 3, 1."""
    row = torch.tensor([[[[0.0, 1.0]]]])
    wide = resized(Images(row, torch.tensor([0]), 2), 1, 4).pixels
    assert torch.allclose(wide, torch.tensor([[[[0.0, 0.25, 0.75, 1.0]]]]), atol=1e-7)
    long = torch.tensor([[[[0.0, 7.0, 14.0, 21.0]]]])
    narrow = resized(Images(long, torch.tensor([0]), 2), 1, 2).pixels
    expected = (3 * 0 + 3 * 7 + 14) / 7
    assert torch.allclose(narrow, torch.tensor([[[[expected, 21 - expected]]]]), atol=1e-5)


def test_resizing_keeps_constants_and_turns_bytes_into_numbers() -> None:
    images = Images(torch.full((2, 3, 32, 32), 51, dtype=torch.uint8), LABELS, 2, ("x", "y"), "s")
    larger = resized(images, 40, 23)
    assert larger.shape == (3, 40, 23)
    assert larger.pixels.dtype == torch.float32
    assert torch.allclose(larger.pixels, torch.tensor(0.2), atol=1e-6)
    assert (larger.labels.tolist(), larger.names, larger.source) == ([0, 1], ("x", "y"), "s")
    assert resized(images, 32, 32) is images


def test_grey_images_are_repeated_and_others_refused() -> None:
    grey = some_bytes(channels=1)
    three = grey_to_channels(grey, 3)
    assert three.shape == (3, 5, 5)
    assert all(torch.equal(three.pixels[:, channel], grey.pixels[:, 0]) for channel in range(3))
    assert three.pixels.data_ptr() == grey.pixels.data_ptr()
    assert grey_to_channels(three, 3) is three
    with pytest.raises(ValueError, match="3 channels, not 1"):
        grey_to_channels(three, 1)
    with pytest.raises(ValueError, match="channels = 0"):
        grey_to_channels(grey, 0)
    for size in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="both must be at least 1"):
            resized(grey, *size)


# Normalisation


@pytest.mark.parametrize("as_bytes", [True, False])
def test_normalised_images_have_mean_zero_and_deviation_one(as_bytes: bool) -> None:
    images = some_bytes(samples=130)
    if not as_bytes:
        images = Images(images.values(), images.labels, 3)
    measured = Normalisation.measured(images)
    values = images.values(torch.float64)
    expected = values.mean((0, 2, 3)).tolist(), values.std((0, 2, 3), correction=0).tolist()
    assert measured.mean == pytest.approx(expected[0], rel=1e-7)
    assert measured.std == pytest.approx(expected[1], rel=1e-7)
    pixels = normalised(images).pixels
    assert pixels.dtype == torch.float32
    # sums of 3250 float32 numbers of size 1
    assert torch.allclose(pixels.double().mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(pixels.double().std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), atol=1e-6)


def test_a_given_normalisation_is_applied_channel_by_channel() -> None:
    images = some_bytes()
    given_one = Normalisation((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    pixels = normalised(images, given_one).pixels
    for channel in range(3):
        expected = (images.values()[:, channel] - given_one.mean[channel]) / given_one.std[channel]
        assert torch.allclose(pixels[:, channel], expected, atol=1e-6)
    assert given_one(images.pixels, torch.float64).dtype == torch.float64
    with pytest.raises(ValueError, match=r"give \(N, 3, height, width\)"):
        given_one(some_bytes(channels=1).pixels)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ((), (), "0 means"),
        ((0.0,), (1.0, 1.0), "1 means and 2 standard"),
        ((0.0, 0.0), (1.0, 0.0), "channel 1 has mean 0.0 and standard deviation 0.0"),
        ((0.0,), (float("nan"),), "channel 0"),
        ((float("inf"),), (1.0,), "channel 0"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(mean: tuple[float, ...], std: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Normalisation(mean, std)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_constant_channel_cannot_be_normalised(dtype: torch.dtype) -> None:
    pixels = some_bytes(channels=2).pixels.to(dtype)
    pixels[:, 1] = 7
    with pytest.raises(ValueError, match=r"channel 1 .*constant"):
        normalised(Images(pixels, torch.zeros(6, dtype=torch.int64), 2))


# Augmentation


def every_cut(image: Tensor, padding: int) -> list[Tensor]:
    """All the crops of one padded image, cut one by one."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    sides = range(2 * padding + 1)
    return [padded[:, top : top + height, left : left + width] for top in sides for left in sides]


@settings(max_examples=25)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 4), st.integers(0, 99)
)
def test_a_crop_is_one_of_the_cuts_of_its_own_image(
    samples: int, channels: int, height: int, width: int, padding: int, seed: int
) -> None:
    shape = (samples, channels, height, width)
    pixels = torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator(seed))
    cropped = random_crop(pixels, padding, generator(seed))
    assert cropped.shape == pixels.shape
    assert cropped.dtype == torch.uint8
    for before, after in zip(pixels, cropped, strict=True):
        assert any(torch.equal(after, cut) for cut in every_cut(before, padding))
    numbers = random_crop(pixels.float(), padding, generator(seed))
    assert torch.equal(numbers, cropped.float())


def test_every_offset_is_drawn_about_equally_often_and_rows_apart_from_columns() -> None:
    """81 offsets, 8100 draws: a count is about 100 +- 10, and none of 81 lies outside 50 .. 150 (5 deviations)."""
    image = torch.arange(1, 82, dtype=torch.float32).reshape(1, 9, 9)
    # the middle pixel of a 9 x 9 image shifted by -4 .. 4 shows the offset
    middle = random_crop(image.expand(8100, 1, 9, 9), 4, generator(0))[:, 0, 4, 4].to(torch.int64)
    counts = torch.bincount(middle, minlength=82)[1:]
    assert int(counts.min()) > 50
    assert int(counts.max()) < 150


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    """1000 fair draws: 500 +- 16, so 420 .. 580 is 5 deviations."""
    pixels = torch.randint(256, (1000, 2, 3, 4), dtype=torch.uint8, generator=generator(0))
    flipped = random_flip(pixels, generator(1))
    mirrored = (flipped == pixels.flip(-1)).flatten(1).all(1)
    same = (flipped == pixels).flatten(1).all(1)
    assert bool((mirrored | same).all())
    assert 420 < int(mirrored.sum()) < 580


def test_the_generator_decides_crops_and_flips() -> None:
    pixels = some_bytes(samples=20, side=9).pixels
    for augment in (lambda source: random_crop(pixels, 4, source), lambda source: random_flip(pixels, source)):
        assert torch.equal(augment(generator(3)), augment(generator(3)))
        source = generator(3)
        assert not torch.equal(augment(source), augment(source))


def test_augmentation_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"give \(N, channels, height, width\)"):
        random_crop(torch.zeros(3, 4, 4), 4, generator(0))
    with pytest.raises(ValueError, match=r"give \(N, channels, height, width\)"):
        random_flip(torch.zeros(3, 4, 4), generator(0))
    with pytest.raises(ValueError, match="padding = -1"):
        random_crop(torch.zeros(1, 3, 4, 4), -1, generator(0))


# Digits


def test_the_digits_are_scikit_learns() -> None:
    images = digits_images()
    pixels, targets = load_digits(return_X_y=True)
    assert torch.equal(images.pixels.flatten(1), torch.as_tensor(pixels / 16, dtype=torch.float32))
    assert images.labels.tolist() == targets.tolist()
    assert (images.classes, images.shape, images.names[3]) == (10, (1, 8, 8), "3")


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_digits_take_a_protocols_shape_and_stay_readable(shape: tuple[int, int, int]) -> None:
    """The mean images of the training classes classify the test images: labels still belong to their images."""
    train, test = digits_images("train", shape), digits_images("test", shape)
    assert train.shape == test.shape == shape
    assert float(train.pixels.min()) >= 0
    assert float(train.pixels.max()) <= 1 + 1e-6
    columns = train.pixels[:, 0].flatten(1)
    means = torch.stack([columns[train.labels == k].mean(0) for k in range(10)])
    found = torch.cdist(test.pixels[:, 0].flatten(1), means).argmin(1)
    assert (found == test.labels).double().mean() > 0.85


def test_digits_chosen_first_reach_imagenets_shape() -> None:
    images = shaped(digits_images("train").chosen(4, 0), (3, 224, 224))
    assert images.shape == (3, 224, 224)
    assert torch.equal(images.pixels[:, 0], images.pixels[:, 2])


def test_training_and_test_parts_are_disjoint_complete_and_chosen_by_the_seed() -> None:
    everything = digits_images()
    train, test = digits_images("train", seed=5), digits_images("test", seed=5)
    assert (len(train), len(test)) == (1437, 360)
    rows = [tuple(image) for part in (train, test) for image in part.pixels.flatten(1).tolist()]
    assert sorted(rows) == sorted(tuple(image) for image in everything.pixels.flatten(1).tolist())
    assert not torch.equal(test.pixels, digits_images("test", seed=6).pixels)
    for size in (0, 1797):
        with pytest.raises(ValueError, match=f"test = {size}"):
            divided(everything, size, 0)
    with pytest.raises(ValueError, match="'train', 'test' or 'all'"):
        digits_images("validation")  # type: ignore[arg-type]
