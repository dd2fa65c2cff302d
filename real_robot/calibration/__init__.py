"""Where a camera is: lens and place, from a board or a few known points. No part needs torch."""
