# /// script
# dependencies = ["pillow"]
# ///
import io

from PIL import Image, ImageDraw, ImageFont


def f(event):
    image = Image.new('RGB', (64, 64), 'white')
    ImageDraw.Draw(image).text((2, 2), 'text', fill='black', font=ImageFont.load_default(12))
    sizes = []
    for kind in ('JPEG', 'PNG', 'WEBP', 'GIF'):
        data = io.BytesIO()
        image.resize((32, 32)).save(data, kind)
        assert Image.open(io.BytesIO(data.getvalue())).size == (32, 32)
        sizes.append(kind)
    return f'text drawn, scaled, {", ".join(sizes)}'
