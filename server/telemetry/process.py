"""What a process takes of its machine."""

import psutil

from server.telemetry.figures import Figures


def watch_process(figures: Figures) -> None:
    """Tell of the memory, the processor time and the open files of this process."""
    process = psutil.Process()
    memory, seconds = figures.cells("process_resident_memory_bytes"), figures.cells("process_cpu_seconds")
    files = figures.cells("process_open_files")
    figures.cells("process_start_timestamp_seconds")[0] = process.create_time()

    def look() -> None:
        with process.oneshot():
            memory[0] = process.memory_info().rss
            times = process.cpu_times()
            seconds[0] = times.user + times.system
            files[0] = process.num_fds()

    figures.sample(look)
