"""Who loads an image that nobody has loaded yet."""

from ebpf_userspace_exporter.supervisor.pilots import MAX_REMEMBERED, Pilots
from ebpf_userspace_exporter.supervisor.targets import Slot
from ebpf_userspace_exporter.worker.image import Image

FIRST, SECOND = Slot("gc", 1), Slot("gc", 2)


def image() -> Image:
    return Image(functions=(), maps=(), files=(), probes=())


def test_one_worker_loads_an_image_before_all_others() -> None:
    pilots, new = Pilots(), image()

    assert pilots.may_load(new, FIRST)
    assert not pilots.may_load(new, SECOND)
    assert pilots.may_load(new, FIRST), "it may try again"
    assert pilots.has_loaded(new)
    assert not pilots.has_loaded(new)
    assert pilots.may_load(new, SECOND)


def test_another_one_tries_when_the_first_has_given_up() -> None:
    pilots, new = Pilots(), image()
    pilots.may_load(new, FIRST)

    assert not pilots.give_up(SECOND)
    assert pilots.give_up(FIRST)
    assert not pilots.give_up(FIRST)
    assert pilots.may_load(new, SECOND)
    assert not pilots.may_load(new, FIRST)


def test_images_do_not_wait_for_each_other() -> None:
    pilots = Pilots()

    assert pilots.may_load(image(), FIRST)
    assert pilots.may_load(image(), SECOND)


def test_of_many_images_the_latest_are_remembered() -> None:
    pilots, images = Pilots(), [image() for _ in range(MAX_REMEMBERED + 1)]
    for each in images:
        pilots.has_loaded(each)

    assert pilots.may_load(images[-1], FIRST)
    pilots.may_load(images[0], FIRST)
    assert not pilots.may_load(images[0], SECOND)
