"""Camera calibration: intrinsics and mounting from images of a board. No part needs torch."""
