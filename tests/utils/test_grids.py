import io

import pytest
from PIL import Image

from hf_wgan.utils.grids import save_video


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_each_frame_of_a_transparent_video_shows_itself_alone(kind):
    frames = []
    for number in range(3):
        frame = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
        frame.paste((255, 0, 0, 255), (4 * number, 4, 4 * number + 3, 8))
        frames.append(frame)
    file = io.BytesIO()
    save_video(frames, file, kind)
    video = Image.open(file)
    for number in range(3):
        video.seek(number)
        alpha = video.convert("RGBA").getchannel("A")
        assert [alpha.getpixel((4 * place + 1, 5)) for place in range(3)] == [
            255 * (place == number) for place in range(3)
        ]
