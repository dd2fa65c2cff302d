"""Episodes with pictures as a LeRobotDataset of format v3.0, written and read without LeRobot.

layout       what lies where, and what the columns are
episode      `Demonstration`, one episode in memory: what every reader gives and the writer takes
video        pictures to MP4 and back
tables       Parquet to NumPy and back
statistics   what LeRobot normalises with
writer       append episodes, one process at a time; a kill leaves whole episodes only
reader       read them again, ours and those of others

NumPy, pyarrow and PyAV; no torch, so a robot's PC can record.
"""
