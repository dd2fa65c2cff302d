"""Write and read LeRobot data sets (format v3.0) with images, without the package lerobot.

layout         files and columns of a data set
demonstration  `Demonstration`, one episode in memory
video          images to MP4
tables         NumPy to Parquet
statistics     the statistics with which LeRobot normalises
writer         append episodes, one process at a time; a kill leaves complete episodes only
reader         read data sets of this project and of others
others         other projects' data sets with their own cameras, states and actions

Needs NumPy, pyarrow and PyAV, but not torch, so that a robot's computer can record.
"""
