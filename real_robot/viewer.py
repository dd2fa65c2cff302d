"""Show an episode in the Rerun viewer while it runs, or write it into a file for the viewer.

    with watching(ViewerConfig(to="spawn", most_waiting=100, jpeg_quality=None)) as viewers:
        run_episode(..., listeners=viewers)

The viewer shows the images, the requested, sent and measured joint positions, the gripper, the
changes by the safety layer with their causes, the computing time of each stage of a time step (such
as encoder and safety layer), and the surprisal of the camera images. A separate thread sends these
data, so the control loop does not wait. If too many time steps wait,
new ones are dropped, and the viewer shows the number of dropped time steps.
"""

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .episode import EpisodeRecord, Listener, Step

APPLICATION = "toto-robot"
_CLOSE_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewerConfig:
    """Settings of the viewer.

    Attributes:
        to: where the data are sent. `spawn` opens a viewer on this machine. An address, such as
            `rerun+http://127.0.0.1:9876/proxy`, uses a running viewer. A folder receives one file
            per episode. null: no viewer.
        most_waiting: greatest number of time steps that wait to be sent; further time steps are
            dropped.
        jpeg_quality: quality of JPEG compression, 1 to 100. null sends images without compression,
            which is fastest for a viewer on the same machine.
    """

    to: str | None
    most_waiting: int
    jpeg_quality: int | None

    def __post_init__(self) -> None:
        if self.to == "":
            raise ValueError("to must be spawn, the address of a viewer, a folder or null, got ''")
        if self.most_waiting < 1:
            raise ValueError(f"most_waiting must be at least 1, got {self.most_waiting}")
        if self.jpeg_quality is not None and not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be in [1, 100], got {self.jpeg_quality}")


@contextmanager
def watching(config: ViewerConfig) -> Iterator[tuple[Listener, ...]]:
    """Return a context manager that opens the viewer, and closes it at the end.

    Its value is a tuple of listeners for `run_episode`. The tuple is empty if `config.to` is None.

    Raises:
        ImportError: Rerun is not installed.
    """
    if config.to is None:
        yield ()
        return
    with Viewer(config.to, config) as viewer:
        yield (viewer,)


class Viewer:
    """`Listener` that shows an episode in the Rerun viewer.

    Attributes:
        num_dropped: number of dropped time steps in all episodes.
    """

    def __init__(self, to: str, config: ViewerConfig, rerun: Any = None) -> None:
        """Start the thread that sends the data.

        Args:
            to: where the data are sent, as in `ViewerConfig`.
            config: the other settings.
            rerun: replacement of the module `rerun` in tests; None: the module itself.
        """
        self._to, self._config = to, config
        self._rerun = _import_rerun() if rerun is None else rerun
        self._changed = threading.Condition()
        # Fields that both threads use; `_changed` is their lock:
        self._waiting: deque[tuple[str, Any]] = deque()
        self._num_waiting_steps = 0
        self._num_unreported = 0
        self._closing = False
        self._failure: str | None = None
        self.num_dropped = 0
        # Fields that only the thread uses:
        self._stream: Any = None
        self._num_episodes = 0
        self._first_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)
        self._thread.start()

    def begin(self, task: str, agent: str) -> None:
        """Begin a new Rerun recording (a separate data set in the viewer) for an episode."""
        self._put("begin", (task, agent))

    def step(self, step: Step) -> None:
        """Pass a time step to the thread; drop it if too many time steps wait."""
        with self._changed:
            self._raise_failure()
            if self._num_waiting_steps >= self._config.most_waiting:
                self.num_dropped += 1
                self._num_unreported += 1
                return
            num_dropped, self._num_unreported = self._num_unreported, 0
            self._num_waiting_steps += 1
            self._waiting.append(("step", (step, num_dropped)))
            self._changed.notify()

    def end(self, record: EpisodeRecord) -> None:
        """Show how the episode ended."""
        self._put("end", (record.reason, record.message, record.success))

    def close(self) -> None:
        """Send all waiting steps, then end the thread; repeated calls are allowed."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=_CLOSE_S)
        if self._thread.is_alive():
            print(
                f"the viewer did not finish within {_CLOSE_S} s: its last steps may be missing",
                file=sys.stderr,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, event: str, content: Any) -> None:
        with self._changed:
            self._raise_failure()
            self._waiting.append((event, content))
            self._changed.notify()

    def _raise_failure(self) -> None:
        # If this method raises, the control loop removes the listener and records the error.
        if self._failure is not None:
            raise RuntimeError(f"the viewer failed: {self._failure}")

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                event, content = item
                if event == "begin":
                    self._begin(*content)
                elif event == "step":
                    self._step(*content)
                else:
                    self._end(*content)
            self._leave()
        except Exception as error:
            with self._changed:
                self._failure = f"{type(error).__name__}: {error}"
                self._waiting.clear()

    def _next(self) -> tuple[str, Any] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            item = self._waiting.popleft()
            self._num_waiting_steps -= item[0] == "step"
            return item

    def _begin(self, task: str, agent: str) -> None:
        self._leave()
        rr, to = self._rerun, self._to
        self._stream = rr.RecordingStream(APPLICATION)
        self._stream.send_recording_name(f"episode {self._num_episodes}: {task}")
        if to == "spawn" and not self._num_episodes:
            self._stream.spawn()
        elif to == "spawn" or "://" in to:
            self._stream.connect_grpc(None if to == "spawn" else to)
        else:
            Path(to).mkdir(parents=True, exist_ok=True)
            self._stream.save(free_path(Path(to)))
        self._num_episodes += 1
        self._first_s = None
        self._stream.log("episode", rr.TextDocument(f"{task}\n\n{agent}"), static=True)

    def _step(self, step: Step, num_dropped: int) -> None:
        rr, stream, observation = self._rerun, self._stream, step.observation
        if stream is None:
            raise ValueError("a step arrived before the beginning of its episode")
        if self._first_s is None:
            self._first_s = observation.stamp_s
            self._describe(step)
        stream.set_time("tick", sequence=step.index)
        stream.set_time("time", duration=observation.stamp_s - self._first_s)
        if num_dropped:
            stream.log("log", rr.TextLog(f"{num_dropped} steps are not shown", level="WARN"))
        for name, frame in observation.frames.items():
            image = rr.Image(frame.image)
            if self._config.jpeg_quality is not None:
                image = image.compress(jpeg_quality=self._config.jpeg_quality)
            stream.log(f"images/{name}", image)
        self._joints(step)
        decision = step.decision
        names = [change.name for change in decision.interventions]
        stream.log("safety/changes", rr.Scalars(len(names)))
        texts = [
            f"{change.name}: {change.amount:.4f} {change.unit}, {change.detail}"
            for change in decision.interventions
        ]
        if texts or decision.causes or decision.verdict != "move":
            level = {"move": "INFO", "hold": "WARN"}.get(decision.verdict, "ERROR")
            text = "; ".join((decision.verdict, *decision.causes, *texts))
            stream.log("log", rr.TextLog(text, level=level))
        stream.log("timings/late", rr.Scalars(1000 * step.late_s))
        for stage, seconds in step.timings_s.items():
            stream.log(f"timings/{stage}", rr.Scalars(1000 * seconds))
        if step.surprise is not None:
            stream.log("surprise", rr.Scalars(step.surprise))

    def _joints(self, step: Step) -> None:
        rr, stream, state = self._rerun, self._stream, step.observation.state
        requested, measured = step.requested.joint_positions_rad, state.joint_positions_rad
        missing = float("nan")
        for index in range(len(measured)):
            sent = missing if step.sent_rad is None else float(step.sent_rad[index])
            # An invalid action may have a shorter array of requested positions.
            value = float(requested[index]) if index < len(requested) else missing
            values = [value, sent, float(measured[index])]
            stream.log(f"joints/joint{index + 1}", rr.Scalars(values))
        target, gripper = step.decision.target, state.gripper
        width_m = None if target is None else target.gripper_width_m
        sent_mm = missing if width_m is None else 1000 * width_m
        measured_mm = missing if gripper is None else 1000 * gripper.width_m
        stream.log("gripper", rr.Scalars([sent_mm, measured_mm]))

    def _describe(self, step: Step) -> None:
        """Set the names of the lines in the plots, once per episode."""
        rr, stream = self._rerun, self._stream
        three = rr.SeriesLines(names=["requested rad", "sent rad", "measured rad"])
        for index in range(len(step.observation.state.joint_positions_rad)):
            stream.log(f"joints/joint{index + 1}", three, static=True)
        stream.log("gripper", rr.SeriesLines(names=["sent mm", "measured mm"]), static=True)

    def _end(self, reason: str, message: str, success: bool | None) -> None:
        if self._stream is None:
            raise ValueError("an episode ended before its beginning")
        with self._changed:
            num_dropped, self._num_unreported = self._num_unreported, 0
        if num_dropped:
            text = f"{num_dropped} steps are not shown"
            self._stream.log("log", self._rerun.TextLog(text, level="WARN"))
        result = {True: "success", False: "failure", None: "not evaluated"}[success]
        text = f"{result}; {reason}: {message}"
        self._stream.log("log", self._rerun.TextLog(text, level="INFO"))
        self._leave()

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.flush(timeout_sec=_CLOSE_S)
            self._stream.disconnect()
            self._stream = None


def free_path(folder: Path) -> Path:
    """Return the path of the next episode's file, `episode_<number>.rrd`, with an unused number."""
    index = 0
    while (path := folder / f"episode_{index:03d}.rrd").exists():
        index += 1
    return path


def _import_rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise ImportError("the viewer needs Rerun: pip install 'toto-robot[viewer]'") from error
    return rerun
