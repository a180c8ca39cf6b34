"""Image files of every kind are read as they are meant, or refused, and keep what they say of themselves."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

from kdsr_arch import errors
from kdsr_arch.data.image_file import image_size
from kdsr_arch.data.sources import FolderSource
from kdsr_arch.upscale.dispatch import check_output, kind_of
from kdsr_arch.upscale.images import bled, upscale_file, upscale_picture
from kdsr_arch.upscale.picture import Picture, picture_suffixes, read_picture
from kdsr_arch.upscale.picture_output import write_picture
from tests.helpers.messages import missing, refuses

RNG = np.random.default_rng(0)
TURNED = [  # what EXIF's orientations 1 to 8 ask for
    np.copy, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, lambda a: a.swapaxes(0, 1),
    lambda a: np.rot90(a, -1), lambda a: np.rot90(a, 2).swapaxes(0, 1), np.rot90,
]  # fmt: skip


def noise(*shape, dtype=np.uint8, high=None):
    return RNG.integers(0, (high or np.iinfo(dtype).max) + 1, shape, dtype=dtype)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(array, *chunks, bits=None):
    """A PNG of the specification: gray or RGB of any depth, with further chunks (kind, content)."""
    height, width, channels = array.shape
    bits = bits or array.dtype.itemsize * 8
    if bits < 8:
        powers = 2 ** (bits * np.arange(8 // bits)[::-1])
        array = (array.reshape(height, -1, 8 // bits) * powers).sum(2).astype(np.uint8)
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, bits, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(array, photometric=None, **more):
    """A plain TIFF of the specification: one strip, any type; further tags as tNUMBER=(values)."""
    height, width, channels = array.shape
    photometric = (1 if channels == 1 else 2) if photometric is None else photometric
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    tags = {256: [width], 257: [height], 258: [array.dtype.itemsize * 8] * channels, 259: [1], 262: [photometric],
            273: [8], 277: [channels], 278: [height], 279: [array.nbytes], 339: [kind] * channels}  # fmt: skip
    tags |= {int(name[1:]): values for name, values in more.items()}
    body = array.astype(array.dtype.newbyteorder("<")).tobytes()
    start = 8 + len(body)
    rows, extra, place = b"", b"", start + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        raw = b"".join(struct.pack("<I", value) for value in values)
        if len(raw) > 4:
            rows, extra = rows + struct.pack("<HHII", tag, 4, len(values), place + len(extra)), extra + raw
        else:
            rows += struct.pack("<HHI", tag, 4, 1) + raw
    return b"II*\0" + struct.pack("<I", start) + body + struct.pack("<H", len(tags)) + rows + bytes(4) + extra


def pnm(array, peak):
    magic = b"P5" if array.shape[2] == 1 else b"P6"
    size = f"\n# made by hand\n{array.shape[1]} {array.shape[0]}\n{peak}\n".encode()
    return magic + size + array.astype(">u2" if peak > 255 else "u1").tobytes()


def read(path, content):
    path.write_bytes(content)
    return read_picture(path)


@pytest.fixture(autouse=True)
def forget_what_was_said():
    errors._said.clear()


@pytest.mark.parametrize("peak", [100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_white_of_pgm_and_ppm_is_what_their_header_says(tmp_path, peak, channels):
    array = noise(5, 7, channels, dtype=np.uint16, high=peak)
    array[0, 0], array[0, 1] = peak, 0
    made = read(tmp_path / f"a.{'pgm' if channels == 1 else 'ppm'}", pnm(array, peak)).color
    deep = peak > 255
    assert made.dtype == (np.uint16 if deep else np.uint8) and made.shape == array.shape
    exact = array * ((65535 if deep else 255) / peak)
    assert np.abs(made - exact).max() <= (0.5 if deep else 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_tiffs_are_read_as_zero_to_one(tmp_path, channels, dtype, caplog):
    array = RNG.random((5, 7, channels)).astype(dtype)
    made = read(tmp_path / "a.tif", tiff(array)).color
    assert made.dtype == np.uint16 and np.abs(made - array * 65535.0).max() <= 0.51
    assert not missing(caplog.text, tmp_path / "a.tif", 16)
    with refuses(tmp_path / "a.tif", 0, 1):
        read(tmp_path / "a.tif", tiff(array * 255))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
def test_integers_of_no_known_white_are_refused(tmp_path, dtype):
    with refuses(tmp_path / "a.tif", np.dtype(dtype).name):
        read(tmp_path / "a.tif", tiff(noise(5, 7, 1, dtype=dtype)))


@pytest.mark.parametrize(
    ("channels", "photometric", "more"),
    [(4, 5, {}), (3, 8, {}), (2, 1, {"t338": [2]}), (4, 2, {"t338": [1]})],
    ids=["CMYK", "Lab", "gray and alpha", "premultiplied"],
)
def test_deep_tiffs_of_other_kinds_are_refused(tmp_path, channels, photometric, more):
    with refuses(tmp_path / "a.tif", "16"):
        read(tmp_path / "a.tif", tiff(noise(5, 7, channels, dtype=np.uint16), photometric, **more))


def test_white_is_zero(tmp_path):
    for dtype in (np.uint8, np.uint16):
        array = noise(5, 7, 1, dtype=dtype)
        made = read(tmp_path / "a.tif", tiff(array, photometric=0)).color
        assert np.array_equal(made, np.iinfo(dtype).max - array)
        assert np.array_equal(FolderSource(tmp_path).get("a"), made.repeat(3, 2))  # so do the readers of data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "dtype"),
    [("png", np.uint8), ("png", np.uint16), ("tif", np.uint8), ("tif", np.uint16), ("tif", np.float32)],
)
def test_pictures_are_turned_upright_whatever_their_depth(tmp_path, orientation, dtype, form):
    array = noise(5, 7, 3, dtype=dtype) if dtype != np.float32 else (noise(5, 7, 3) / 255).astype(dtype)
    exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, orientation) + bytes(4)
    content = png(array, (b"eXIf", exif)) if form == "png" else tiff(array, t274=[orientation])
    made = read(tmp_path / f"a.{form}", content)
    whole = array if dtype != np.float32 else (array * 65535).round().astype(np.uint16)
    assert np.array_equal(made.color, TURNED[orientation - 1](whole))
    assert image_size(tmp_path / f"a.{form}") == made.color.shape[:2]
    assert np.array_equal(FolderSource(tmp_path).get("a"), made.color)
    write_picture(tmp_path / f"b.{form}", made)
    assert np.array_equal(read_picture(tmp_path / f"b.{form}").color, made.color)


def test_the_one_transparent_color_of_a_png(tmp_path):
    for dtype in (np.uint8, np.uint16):
        rgb = noise(5, 7, 3, dtype=dtype)
        for array in (rgb, rgb[..., :1]):
            key = array[2, 3]
            chunks = (b"tRNS", b"".join(struct.pack(">H", int(value)) for value in key))
            made = read(tmp_path / "a.png", png(array, chunks))
            assert np.array_equal(made.color, array)
            expected = np.where((array == key).all(2, keepdims=True), 0, np.iinfo(dtype).max)
            assert np.array_equal(made.alpha, expected)
    for bits in (1, 2, 4):
        array = noise(5, 8, 1, high=2**bits - 1)
        made = read(tmp_path / "a.png", png(array, (b"tRNS", struct.pack(">H", 1)), bits=bits))
        assert np.array_equal(made.color, array * (255 // (2**bits - 1)))
        assert np.array_equal(made.alpha, np.where(array == 1, 0, 255))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_edges_of_transparent_pictures_get_no_fringe(restorer, dtype):
    """A disc of one color: whatever is hidden around it, no network sees it, and only that color comes out."""
    y, x = np.mgrid[:24, :24] - 12
    peak = np.iinfo(dtype).max
    alpha = np.where(x**2 + y**2 < 60, peak, 0).astype(dtype)[..., None]
    alpha[12, :12] //= 2
    ink = (np.array([0.8, 0.5, 0.3]) * peak).astype(dtype)
    disc = [Picture(np.where(alpha > 0, ink, hidden).astype(dtype), alpha) for hidden in (0, peak)]
    assert np.abs(upscale_picture(restorer("bicubic"), disc[0]).color.astype(int) - ink).max() <= 1
    network = restorer("window")
    black, white = (upscale_picture(network, picture) for picture in disc)
    assert np.array_equal(black.color, white.color) and np.array_equal(black.alpha, white.alpha)


def test_colors_run_only_into_what_is_not_seen():
    color, alpha = noise(13, 9, 3, dtype=np.uint16), noise(13, 9, 1, high=1).astype(np.uint16)
    made = bled(color, alpha)
    assert np.array_equal(made[alpha[..., 0] > 0], color[alpha[..., 0] > 0])
    assert made.min() >= color[alpha[..., 0] > 0].min() and made.max() <= color[alpha[..., 0] > 0].max()
    nothing = np.zeros_like(alpha)
    assert np.array_equal(bled(color, nothing), color)


def test_the_first_of_several_pictures_is_taken(tmp_path, caplog):
    frames = [noise(8, 9, 3) for _ in range(3)]
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(tmp_path / "a.tif", save_all=True, append_images=images[1:])
    images[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=images[1:], quality=100, subsampling=0)
    assert np.array_equal(read_picture(tmp_path / "a.tif").color, frames[0])
    alone = io.BytesIO()
    images[0].save(alone, "JPEG", quality=100, subsampling=0)
    assert np.array_equal(read_picture(tmp_path / "a.jpg").color, np.asarray(Image.open(alone)))
    for name in ("a.tif", "a.jpg"):
        assert not missing(caplog.text, tmp_path / name, 3)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def described(path, dtype):
    """A picture with all that is kept, and with what must not be."""
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Maker", 0x8298: "© Nobody".encode(), 0x0100: 12345})
    exif.update({0x8769: {0x829A: IFDRational(1, 250), 0xA002: 5, 0x927C: b"secret" * 9}, 0x8825: {1: "N"}})
    text = PngInfo()
    text.add_text("parameters", "a cat, steps 20")
    text.add_itxt("Title", "Кот", "ru", "Имя")
    image = Image.fromarray(noise(5, 7, 3))
    keywords = {"exif": exif, "icc_profile": PROFILE, "dpi": (300, 300), "pnginfo": text}
    image.save(path, **keywords)
    if dtype == np.uint16:
        data = path.read_bytes()
        ends = [end for _, end in chunks_of(data)]
        more = [data[a:b] for a, b in zip([8, *ends], ends, strict=False) if data[a + 4 : a + 8] not in (
            b"IHDR", b"IDAT", b"IEND")]  # fmt: skip
        plain = png(noise(5, 7, 3, dtype=np.uint16))
        path.write_bytes(plain[:33] + b"".join(more) + plain[33:])


def chunks_of(data):
    start = 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield start, end
        start = end


@pytest.mark.parametrize(
    ("ending", "dtype"),
    [(".png", np.uint8), (".tif", np.uint8), (".jpg", np.uint8), (".webp", np.uint8), (".png", np.uint16),
     (".tif", np.uint16)],
)  # fmt: skip
def test_what_a_picture_says_of_itself_is_kept(restorer, tmp_path, dtype, ending):
    described(tmp_path / "a.png", dtype)
    upscale_file(restorer("bicubic"), tmp_path / "a.png", tmp_path / f"b{ending}")
    with Image.open(tmp_path / f"b{ending}") as made:
        made.load()
        assert made.size == (10, 14) and made.info["icc_profile"] == PROFILE
        exif = made.getexif()
        assert exif[0x010F] == "Maker" and exif[0x8298].encode("latin-1").decode() == "© Nobody"
        assert exif.get(0x0112, 1) == 1
        assert exif.get(0x0100) in (None, 10)  # of the file itself, where it is a TIFF
        group = exif.get_ifd(0x8769)
        assert float(group[0x829A]) == 1 / 250 and 0xA002 not in group and 0x927C not in group
        assert exif.get_ifd(0x8825)[1] == "N"
        if ending != ".webp":
            assert made.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        if ending == ".png":
            assert (made.text["parameters"], made.text["Title"]) == ("a cat, steps 20", "Кот")
            assert made.text["Title"].lang == "ru"
    again = read_picture(tmp_path / f"b{ending}")
    assert again.color.dtype == dtype and again.color.shape == (14, 10, 3)
    assert cv2.imread(str(tmp_path / f"b{ending}"), cv2.IMREAD_UNCHANGED).shape == (14, 10, 3)


def test_damaged_descriptions_cost_only_themselves(tmp_path, caplog):
    array = noise(5, 7, 3)
    made = read(
        tmp_path / "a.png", png(array, (b"eXIf", b"II*\0\xff\xff\xff\x7f"), (b"pHYs", struct.pack(">IIB", 0, 0, 1)))
    )
    assert np.array_equal(made.color, array) and "dpi" not in made.about
    assert not missing(caplog.text, tmp_path / "a.png", "EXIF")


def test_profiles_are_written_only_into_pixels_that_they_are_for(tmp_path, caplog):
    image = Image.new("CMYK", (6, 4), (0, 255, 255, 0))
    image.save(tmp_path / "a.jpg")
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.color.shape == (4, 6, 3) and not missing(caplog.text, tmp_path / "a.jpg", "CMYK")
    Image.new("L", (6, 4)).save(tmp_path / "g.png", icc_profile=PROFILE)
    assert "icc_profile" not in read_picture(tmp_path / "g.png").about and "g.png" in caplog.text
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.new("LAB", (6, 4), (128, 128, 128)).save(tmp_path / "l.tif", icc_profile=lab)
    gray = read_picture(tmp_path / "l.tif")
    assert "icc_profile" not in gray.about and np.abs(gray.color.astype(int) - 119).max() <= 3  # L* 50 in sRGB
    with refuses(tmp_path / "c.jpg", "profile"):
        image.save(tmp_path / "c.jpg", icc_profile=PROFILE[:16] + b"CMYK" + PROFILE[20:])
        read_picture(tmp_path / "c.jpg")


def test_what_is_no_image_is_said_without_python(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with refuses(tmp_path / "a.png", without=["BytesIO"]):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(("ending", "width"), [(".webp", 8192), (".jpg", 32751)])
def test_what_a_format_cannot_hold_is_told_before_the_work(restorer, tmp_path, ending, width):
    write_picture(tmp_path / "a.png", Picture(np.zeros((1, width, 3), np.uint8)))
    upscaler = restorer("bicubic")
    upscaler.piece = None
    with refuses(tmp_path / f"b{ending}", f"{2 * width}x2"):
        upscale_file(upscaler, tmp_path / "a.png", tmp_path / f"b{ending}")


def test_what_pillow_reads_is_an_image_whatever_it_is_called(tmp_path):
    image = Image.fromarray(noise(8, 9, 3))
    for name in ("a.jfif", "a.tga", "a.jp2", "a.avif"):
        if name[1:] in picture_suffixes():
            image.save(tmp_path / name)
            assert kind_of(tmp_path / name) == "image" and read_picture(tmp_path / name).color.shape == (8, 9, 3)
    image.save(tmp_path / "still", "PNG")
    image.save(tmp_path / "still.gif")
    image.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.fromarray(noise(8, 9, 3))])
    (tmp_path / "a.mkv").write_bytes(b"\x1aE\xdf\xa3")
    kinds = {name: kind_of(tmp_path / name) for name in ("still", "still.gif", "moving.gif", "a.mkv")}
    assert kinds == {"still": "image", "still.gif": "image", "moving.gif": "video", "a.mkv": "video"}
    with refuses("moving.gif", "animation", ".png", ".mp4"):
        check_output(tmp_path / "moving.gif", tmp_path / "a.png", "video", overwrite=False)


def test_programs_are_not_started_by_a_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with refuses(tmp_path / "a.png"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_quality_is_that_of_lossy_formats(restorer, tmp_path, ending):
    image = noise(32, 32, 3)
    write_picture(tmp_path / "a.png", Picture(image))
    sizes = []
    for quality in (20, 60, None):
        upscale_file(restorer("bicubic"), tmp_path / "a.png", tmp_path / f"b{ending}", quality)
        sizes.append((tmp_path / f"b{ending}").stat().st_size)
    assert sizes == sorted(set(sizes))
    with refuses("b.png", "--image-quality 20"):
        upscale_file(restorer("bicubic"), tmp_path / "a.png", tmp_path / "b.png", 20)
