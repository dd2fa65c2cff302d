"""Write and read LeRobot data sets (format v3.0) with images, without the package lerobot.

layout         names of the files and columns of a data set
demonstration  `Demonstration`, one episode in memory
video          writes images as MP4
tables         writes NumPy arrays as Parquet files
statistics     computes the statistics with which LeRobot normalises inputs
writer         appends episodes; a kill while it writes leaves no incomplete episode
reader         reads data sets of this project and of other projects
others         chooses columns of other projects' data sets, and describes their actions

The package needs NumPy, pyarrow and PyAV, but not torch. So a computer that controls a robot can
record without torch.
"""
