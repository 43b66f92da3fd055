#!/usr/bin/env python3
"""Make tests/golden/images/: small pictures of every format we read, and what Pillow makes of them.

usage: golden_images.py OUTPUT_DIR [PHOTO_DIR]

OUTPUT_DIR/index.txt has one line a check, crc = CRC-32 of the RGB bytes:
  read FILE W H CRC W CRC_UPRIGHT    as stored (exif ignored), and turned upright (its W)
  resize FILE FILTER W H CRC
  train FILE R CRC                   shorter side to R (bilinear), centre crop
  edit FILE R CRC                    centre square, resized to R (bicubic)
  cover FILE W H CRC                 resized to cover W x H (bilinear), centre crop
  alpha FILE CRC                     the alpha channel of a PNG or WebP, as grey
  color FILE WHAT FACTOR CRC         torchvision's adjust_WHAT on a Pillow picture
  photo FILE CRC CRC_TRAIN CRC_EDIT  of PHOTO_DIR, R = 512; the photos are not kept here
  float CRC                          (v/255-0.5)/0.5 of v = 0..255 in f32, by PyTorch

Written with Pillow 13.0.0, NumPy and PyTorch 2.15; seed 7.
"""
import io
import os
import struct
import sys
import zlib

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

W, H = 13, 11
rng = np.random.default_rng(7)


def picture(w, h):
    """Smooth colours with some noise, [h, w, 3] u8."""
    y, x = np.mgrid[0:h, 0:w]
    base = np.stack([x * 255 / max(w - 1, 1), y * 255 / max(h - 1, 1),
                     127 + 120 * np.sin(x * 0.9 + y * 0.5)], -1)
    return np.clip(base + rng.integers(-30, 31, base.shape), 0, 255).astype(np.uint8)


def crc(a):
    return "%08x" % zlib.crc32(np.ascontiguousarray(a).tobytes())


# --- PNG, written by hand so that every depth and interlacing can be had ---------------------------

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack_rows(samples, depth):
    """[h, n] samples -> bytes a row, each with filter byte 0."""
    out = b""
    for row in samples:
        if depth == 16:
            body = row.astype(">u2").tobytes()
        elif depth == 8:
            body = row.astype(np.uint8).tobytes()
        else:
            bits = ((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).ravel()
            body = np.packbits(bits).tobytes()
        out += b"\0" + body
    return out


def png(samples, depth, colour, extra=b"", interlace=False):
    """samples [h, w, channels]"""
    h, w, c = samples.shape
    if interlace:
        raw = b""
        for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4),
                               (1, 0, 2, 2), (0, 1, 1, 2)):
            part = samples[y0::dy, x0::dx]
            if part.size:
                raw += pack_rows(part.reshape(part.shape[0], -1), depth)
    else:
        raw = pack_rows(samples.reshape(h, -1), depth)
    head = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, int(interlace))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(raw, 9)) +
            chunk(b"IEND", b""))


def exif(orientation, big=False):
    e = ">" if big else "<"
    return (b"MM\0*" if big else b"II*\0") + struct.pack(e + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def pngs():
    files = {}
    for colour, channels, depths in ((0, 1, (1, 2, 4, 8, 16)), (2, 3, (8, 16)), (4, 2, (8, 16)), (6, 4, (8, 16))):
        for depth in depths:
            s = rng.integers(0, 1 << depth, (H, W, channels))
            if colour == 0 and depth == 16:
                s = s % 600
            for interlace in (False, True):
                files[f"png{colour}_{depth}{'i' if interlace else ''}.png"] = png(s, depth, colour, b"", interlace)
    for depth in (1, 2, 4, 8):
        n = min(1 << depth, 200)
        palette = chunk(b"PLTE", rng.integers(0, 256, 3 * n).astype(np.uint8).tobytes())
        s = rng.integers(0, n, (H, W, 1))
        files[f"png3_{depth}.png"] = png(s, depth, 3, palette)
        files[f"png3_{depth}t.png"] = png(s, depth, 3, palette + chunk(b"tRNS", b"\0\x80"), depth == 4)
    files["png_short_palette.png"] = png(rng.integers(0, 16, (H, W, 1)), 4, 3, chunk(b"PLTE", bytes(range(30, 51))))
    rgb = picture(W, H)
    files["png2_8t.png"] = png(rgb.astype(int), 8, 2, chunk(b"tRNS", struct.pack(">3H", *map(int, rgb[0, 0]))))
    for o in range(1, 9):
        files[f"png_exif{o}.png"] = png(rgb.astype(int), 8, 2, chunk(b"eXIf", exif(o, o % 2 == 0)))
    return files


# --- JPEG and WebP, by Pillow -----------------------------------------------------------------------

def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpegs():
    files = {}
    image = Image.fromarray(picture(37, 29))
    for s in range(3):
        files[f"jpeg_{s}.jpg"] = saved(image, "JPEG", quality=85, subsampling=s)
        files[f"jpeg_{s}p.jpg"] = saved(image, "JPEG", quality=60, subsampling=s, progressive=True)
    files["jpeg_restart.jpg"] = saved(image, "JPEG", quality=75, restart_marker_blocks=2)
    files["jpeg_rgb.jpg"] = saved(image, "JPEG", quality=85, keep_rgb=True)
    files["jpeg_grey.jpg"] = saved(image.convert("L"), "JPEG", quality=85)
    files["jpeg_cmyk.jpg"] = saved(image.convert("CMYK"), "JPEG", quality=85)
    for o in range(1, 9):
        e = Image.Exif()
        e[0x0112] = o
        files[f"jpeg_exif{o}.jpg"] = saved(image.crop((0, 0, 17, 9)), "JPEG", quality=85, exif=e)
    return files


def webps():
    image = Image.fromarray(picture(37, 29))
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.fromarray(picture(37, 29)[:, :, 0]))
    e = Image.Exif()
    e[0x0112] = 6
    return {"webp_lossy.webp": saved(image, "WEBP", quality=70),
            "webp_lossless.webp": saved(image.crop((0, 0, W, H)), "WEBP", lossless=True),
            "webp_alpha.webp": saved(alpha, "WEBP", quality=70),
            "webp_alpha_lossless.webp": saved(alpha.crop((0, 0, W, H)), "WEBP", lossless=True, exact=True),
            "webp_exif6.webp": saved(image, "WEBP", quality=70, exif=e)}


# --- TIFF -------------------------------------------------------------------------------------------

def tiff(samples, photometric, big=False, tile=None, planar=False, colour_map=None, extra=None, form=1,
         orientation=None, rows=4):
    """samples [h, w, c] of u8, u16, i16, u32 or f32, uncompressed."""
    e = ">" if big else "<"
    h, w, c = samples.shape
    s = samples.astype(samples.dtype.newbyteorder(e))
    planes = [s[:, :, i:i + 1] for i in range(c)] if planar else [s]
    blocks = []
    for p in planes:
        if tile:
            for y in range(0, h, tile):
                for x in range(0, w, tile):
                    b = np.zeros((tile, tile, p.shape[2]), p.dtype)
                    part = p[y:y + tile, x:x + tile]
                    b[:part.shape[0], :part.shape[1]] = part
                    blocks.append(b.tobytes())
        else:
            blocks += [p[y:y + rows].tobytes() for y in range(0, h, rows)]
    tags = {256: (4, [w]), 257: (4, [h]), 258: (3, [samples.dtype.itemsize * 8] * c), 259: (3, [1]),
            262: (3, [photometric]), 277: (3, [c]), 284: (3, [2 if planar else 1]), 339: (3, [form] * c)}
    if orientation:
        tags[274] = (3, [orientation])
    if extra is not None:
        tags[338] = (3, [extra])
    if colour_map is not None:
        tags[320] = (3, [int(v) for v in colour_map])
    body, places = b"", []
    for b in blocks:
        places.append(8 + len(body))
        body += b + b"\0" * (len(b) % 2)
    sizes = [len(b) for b in blocks]
    if tile:
        tags.update({322: (4, [tile]), 323: (4, [tile]), 324: (4, places), 325: (4, sizes)})
    else:
        tags.update({273: (4, places), 278: (4, [rows]), 279: (4, sizes)})
    entries = b""
    for tag in sorted(tags):
        kind, values = tags[tag]
        data = struct.pack(e + str(len(values)) + ("H" if kind == 3 else "I"), *values)
        if len(data) > 4:
            place = 8 + len(body)
            body += data + b"\0" * (len(data) % 2)
            data = struct.pack(e + "I", place)
        entries += struct.pack(e + "HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(e + "I", 8 + len(body))
    return head + body + struct.pack(e + "H", len(tags)) + entries + b"\0\0\0\0"


def tiffs():
    files = {}
    rgb = picture(W, H)
    image = Image.fromarray(rgb)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"):
        files[f"tiff_{mode.replace(';', '')}.tif"] = saved(
            image.convert("L").convert(mode) if mode[0] in "IF" else image.convert(mode), "TIFF")
    for c in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"tiff_{c.removeprefix('tiff_')}.tif"] = saved(image, "TIFF", compression=c)
    files["tiff_jpeg_ycbcr.tif"] = saved(image.convert("YCbCr"), "TIFF", compression="jpeg")
    files["tiff_group4.tif"] = saved(image.convert("1"), "TIFF", compression="group4")
    u16 = rng.integers(0, 65536, (H, W, 3)).astype(np.uint16)
    grey16 = (u16[:, :, :1] % 500)
    rgba = np.concatenate([rgb, 255 - rgb[:, :, :1] // 2 * 2], -1)
    rgba[0, :, 3] = 0
    rgba[1, :, 3] = 255
    for big in (False, True):
        n = "b" if big else "l"
        files[f"tiff_rgb16{n}.tif"] = tiff(u16, 2, big)
        files[f"tiff_grey16{n}.tif"] = tiff(grey16, 1, big)
        files[f"tiff_i16{n}.tif"] = tiff(grey16.astype(np.int16) - 100, 1, big, form=2)
        files[f"tiff_f32{n}.tif"] = tiff(rgb[:, :, :1].astype(np.float32) * 1.5 - 40.3, 1, big, form=3)
    files["tiff_white0.tif"] = tiff(rgb[:, :, :1], 0)
    files["tiff_tiled.tif"] = tiff(rgb, 2, tile=16)
    files["tiff_tiled_tall.tif"] = tiff(picture(21, 40), 2, tile=16)
    files["tiff_planar.tif"] = tiff(rgb, 2, planar=True)
    files["tiff_assoc.tif"] = tiff(rgba, 2, extra=1)
    files["tiff_unassoc.tif"] = tiff(rgba, 2, extra=2)
    files["tiff_extra.tif"] = tiff(rgba, 2, extra=0)
    rgba16 = rgba.astype(np.uint16) * 257
    files["tiff_assoc16.tif"] = tiff(rgba16, 2, extra=1)
    files["tiff_cmyk16.tif"] = tiff(rgba16, 5)
    files["tiff_palette.tif"] = tiff(rgb[:, :, :1], 3, colour_map=rng.integers(0, 65536, 768))
    for o in range(1, 9):
        files[f"tiff_turned{o}.tif"] = tiff(rgb, 2, orientation=o)
    return files


# --- netpbm and BMP ---------------------------------------------------------------------------------

def netpbms():
    rgb = picture(W, H)
    grey = rgb[:, :, 0]
    bits = (grey > 100).astype(np.uint8)
    size = b"%d %d\n" % (W, H)

    def text(a):
        return b"\n".join(b" ".join(b"%d" % v for v in row) for row in a.reshape(H, -1)) + b"\n"

    return {
        "p1.pbm": b"P1\n# a comment\n" + size + b"\n".join(bytes(r + 48) for r in bits),
        "p1_spaced.pbm": b"P1 " + size + text(bits),
        "p2.pgm": b"P2\n%d # width\n%d\n255\n" % (W, H) + text(grey),
        "p2_100.pgm": b"P2\n" + size + b"100\n" + text(grey // 3),
        "p2_wide.pgm": b"P2\n" + size + b"1000\n" + text(grey),
        "p3.ppm": b"P3\n" + size + b"255\n" + text(rgb),
        "p3_wide.ppm": b"P3\n" + size + b"1000\n" + text(rgb.astype(int) * 3),
        "p4.pbm": b"P4\n" + size + np.packbits(bits, axis=1).tobytes(),
        "p5.pgm": b"P5\n" + size + b"255\n" + grey.tobytes(),
        "p5_99.pgm": b"P5\n" + size + b"99\n" + (grey // 3).tobytes(),
        "p5_65535.pgm": b"P5\n" + size + b"65535\n" + (grey.astype(">u2") * 2).tobytes(),
        "p5_1000.pgm": b"P5\n" + size + b"1000\n" + (grey // 50).astype(">u2").tobytes(),
        "p6.ppm": b"P6\n#c\n" + size + b"255\n" + rgb.tobytes(),
        "p6_7.ppm": b"P6\n" + size + b"7\n" + (rgb // 32).tobytes(),
        "p6_65535.ppm": b"P6\n" + size + b"65535\n" + (rgb.astype(">u2") * 257 + 40).tobytes(),
    }


def bmp(rows, bits, w, h, palette=b"", compression=0, masks=b"", core=False):
    if core:
        head = struct.pack("<IHHHH", 12, w, h, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", 40, w, h, 1, bits, compression, len(rows), 0, 0, 0, 0) + masks
    place = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", place + len(rows), 0, 0, place) + head + palette + rows


def bmp_rows(a, bits):
    """a [h, w] of integers of `bits` bits -> padded rows, the lowest first."""
    out = b""
    for row in a[::-1]:
        if bits >= 16:
            body = row.astype("<u%d" % (bits // 8)).tobytes() if bits != 24 else b"".join(
                struct.pack("<I", int(v))[:3] for v in row)
        else:
            body = np.packbits(((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).ravel()).tobytes()
        out += body + b"\0" * (-len(body) % 4)
    return out


def bmps():
    files = {}
    image = Image.fromarray(picture(W, H))
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        files[f"bmp_{mode}.bmp"] = saved(image.convert(mode), "BMP")
    for bits in (1, 4, 8):
        palette = rng.integers(1, 255, (1 << bits, 4)).astype(np.uint8)
        a = rng.integers(0, 1 << bits, (H, W))
        files[f"bmp_p{bits}.bmp"] = bmp(bmp_rows(a, bits), bits, W, H, palette.tobytes())
        files[f"bmp_core{bits}.bmp"] = bmp(bmp_rows(a, bits), bits, W, H, palette[:, :3].tobytes(), core=True)
    v16 = rng.integers(0, 65536, (H, W))
    v32 = rng.integers(0, 1 << 32, (H, W))
    files["bmp_555.bmp"] = bmp(bmp_rows(v16, 16), 16, W, H)
    files["bmp_565.bmp"] = bmp(bmp_rows(v16, 16), 16, W, H, compression=3,
                               masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F))
    files["bmp_24_above.bmp"] = bmp(bmp_rows(v32 & 0xFFFFFF, 24), 24, W, -H)
    files["bmp_32.bmp"] = bmp(bmp_rows(v32, 32), 32, W, H)
    files["bmp_32_masks.bmp"] = bmp(bmp_rows(v32, 32), 32, W, H, compression=3,
                                    masks=struct.pack("<III", 0xFF000000, 0xFF0000, 0xFF00))
    palette = rng.integers(1, 255, (256, 4)).astype(np.uint8).tobytes()
    rle = b""
    for y in range(H):
        rle += bytes([5, y * 20, 0, 5, 1, 2, 3, 4, 5, 0, 3, 200 - y]) + (b"\0\0" if y < H - 1 else b"\0\1")
    files["bmp_rle8.bmp"] = bmp(rle, 8, W, H, palette, 1)
    rle = b""
    for y in range(H):
        rle += bytes([7, 0x3A, 0, 5, 0x12, 0x34, 0x50, 0, 1, y << 4]) + (b"\0\0" if y < H - 1 else b"\0\1")
    files["bmp_rle4.bmp"] = bmp(rle, 4, W, H, palette[:64], 2)
    return files


# --- what Pillow says -------------------------------------------------------------------------------

FILTERS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC,
           "lanczos": Image.LANCZOS}


def train(image, r):
    w, h = image.size
    if w <= h:
        size = (r, int(r * h / w))
    else:
        size = (int(r * w / h), r)
    image = image.resize(size, Image.BILINEAR)
    top, left = round((size[1] - r) / 2.0), round((size[0] - r) / 2.0)
    return image.crop((left, top, left + r, top + r))


def cover(image, width, height):
    w, h = image.size
    size = (width, int(width * h / w)) if w * height <= h * width else (int(height * w / h), height)
    image = image.resize(size, Image.BILINEAR)
    top, left = round((size[1] - height) / 2.0), round((size[0] - width) / 2.0)
    return image.crop((left, top, left + width, top + height))


def adjust(image, what, factor):
    """torchvision.transforms._functional_pil: adjust_brightness, ..., adjust_hue."""
    if what != "hue":
        kind = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast,
                "saturation": ImageEnhance.Color}[what]
        return kind(image).enhance(factor)
    h, s, v = image.convert("HSV").split()
    h = Image.fromarray((np.array(h).astype(int) + int(factor * 255)).astype(np.uint8), "L")
    return Image.merge("HSV", (h, s, v)).convert("RGB")


def colours():
    """Every eighth value of each channel, and the greys."""
    cube = np.stack(np.meshgrid(*[np.minimum(np.arange(0, 264, 8), 255)] * 3, indexing="ij"), -1).reshape(33 * 33, 33, 3)
    grey = np.repeat(np.arange(256, dtype=int)[:, None], 3, 1)
    return np.concatenate([cube.reshape(-1, 3), grey, np.zeros((33 * 1097 - 33 ** 3 - 256, 3), int)]).reshape(
        1097, 33, 3).astype(np.uint8)


def edit(image, r):
    w, h = image.size
    s = min(w, h)
    left, top = (w - s) // 2, (h - s) // 2
    return image.crop((left, top, left + s, top + s)).resize((r, r))


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    lines = []
    files = {}
    for make in (pngs, jpegs, webps, tiffs, netpbms, bmps):
        files.update(make())
    plain_tiff = np.array(Image.open(io.BytesIO(files["tiff_turned1.tif"])).convert("RGB"))
    for name, data in sorted(files.items()):
        with open(os.path.join(out, name), "wb") as f:
            f.write(data)
        image = Image.open(io.BytesIO(data))
        stored = np.array(image.convert("RGB"))
        upright = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        if name.startswith("tiff_turned"):  # Pillow turns a TIFF whether asked or not
            stored = plain_tiff
        lines.append(f"read {name} {stored.shape[1]} {stored.shape[0]} {crc(stored)} {upright.shape[1]} {crc(upright)}")

    for w, h in ((61, 47), (2, 3), (1, 1), (40, 90)):
        name = f"resize_{w}x{h}.png"
        image = Image.fromarray(picture(w, h))
        image.save(os.path.join(out, name), optimize=True)
        for kind, f in FILTERS.items():
            for size in ((w, h), (20, 15), (128, 100), (w, 20), (30, h), (1, 1), (200, 3), (7, 97), (w * 2, h * 2),
                         (w + 1, h), (33, 32)):
                lines.append(f"resize {name} {kind} {size[0]} {size[1]} {crc(np.array(image.resize(size, f)))}")
        for r in (1, 8, 16, 31, 32, 47, 64):
            lines.append(f"train {name} {r} {crc(np.array(train(image, r)))}")
            lines.append(f"edit {name} {r} {crc(np.array(edit(image, r)))}")
        for box in ((16, 16), (16, 24), (24, 16), (8, 32), (40, 12)):
            lines.append(f"cover {name} {box[0]} {box[1]} {crc(np.array(cover(image, *box)))}")
    for name, data in sorted(files.items()):
        if name.endswith((".png", ".webp")) and not name.startswith("png0_16"):
            alpha = np.array(Image.open(io.BytesIO(data)).convert("RGBA"))[:, :, 3]
            lines.append(f"alpha {name} {crc(np.repeat(alpha[:, :, None], 3, 2))}")
    image = Image.fromarray(colours())
    image.save(os.path.join(out, "colours.png"), optimize=True)
    for what, factors in (("brightness", (0, 0.25, 0.9, 1, 1.3, 7)), ("contrast", (0, 0.4, 1, 1.7, 5)),
                          ("saturation", (0, 0.6, 1, 1.2, 3)), ("hue", (-0.5, -0.3, -0.001, 0, 0.004, 0.21, 0.5))):
        for f in factors:
            lines.append(f"color colours.png {what} {f} {crc(np.array(adjust(image, what, f)))}")
    if len(sys.argv) == 3:
        for name in sorted(os.listdir(sys.argv[2])):
            image = Image.open(os.path.join(sys.argv[2], name)).convert("RGB")
            lines.append(f"photo {name} {crc(np.array(image))} {crc(np.array(train(image, 512)))} "
                         f"{crc(np.array(edit(image, 512)))}")
    v = torch.arange(256, dtype=torch.uint8).to(torch.float32).div(255)
    lines.append("float " + crc(v.sub(0.5).div(0.5).numpy()))
    with open(os.path.join(out, "index.txt"), "w") as f:
        f.write("\n".join(lines) + "\n")


main()
