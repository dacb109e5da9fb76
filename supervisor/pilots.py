"""Has an image loaded by one worker before all the others load it."""

from collections import OrderedDict

from ebpf_userspace_exporter.supervisor.targets import Slot
from ebpf_userspace_exporter.worker.image import Image

MAX_REMEMBERED = 512


class Pilots:
    """What the verifier takes seconds to refuse, it refuses once: not for every target, and on all CPUs at a time."""

    def __init__(self) -> None:
        # By identity: images are large, and one that was built again may be refused though it is equal.
        self._loaded: OrderedDict[int, Image] = OrderedDict()
        self._pilots: dict[int, tuple[Image, Slot]] = {}

    def may_load(self, image: Image, slot: Slot) -> bool:
        """Whether a worker for this slot may load the image now: it has been loaded, or nobody else tries."""
        if id(image) in self._loaded:
            return True
        return self._pilots.setdefault(id(image), (image, slot))[1] == slot

    def has_loaded(self, image: Image) -> bool:
        """Let everybody load the image; True if that is new."""
        is_new = id(image) not in self._loaded
        self._loaded[id(image)] = image
        self._loaded.move_to_end(id(image))
        if len(self._loaded) > MAX_REMEMBERED:
            self._loaded.popitem(last=False)
        self._pilots.pop(id(image), None)
        return is_new

    def give_up(self, slot: Slot) -> bool:
        """Let another one try what this one has not loaded; True if others may be waiting for it."""
        flown = [key for key, (_, pilot) in self._pilots.items() if pilot == slot]
        for key in flown:
            del self._pilots[key]
        return bool(flown)
