# /// script
# dependencies = ["opencv-python-headless"]
# ///
import cv2
import numpy


def f(event):
    image = numpy.zeros((64, 64, 3), numpy.uint8)
    cv2.circle(image, (32, 32), 20, (255, 255, 255), -1)
    contours, _ = cv2.findContours(cv2.Canny(image, 50, 150), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    done, data = cv2.imencode('.jpg', cv2.GaussianBlur(image, (5, 5), 0))
    assert done and cv2.imdecode(data, cv2.IMREAD_COLOR).shape == image.shape
    return f'{len(contours)} contour found, JPEG'
