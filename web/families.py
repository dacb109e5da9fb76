"""Merges metric files into families: equal labels are combined, a contradicting file is left out whole."""

from collections.abc import Collection, Sequence

from ebpf_userspace_exporter.web.exposition import Family, exposed_names
from ebpf_userspace_exporter.web.file_cache import MetricFile, UnreadableFile
from ebpf_userspace_exporter.web.layouts import Combine, Layout, MetricLayout, Values
from ebpf_userspace_exporter.web.metric_keys import Kind, MetricFileError
from ebpf_userspace_exporter.web.rendering import Template


class Families:
    """What the files of one directory expose; remembers the last time, so that only what has changed is made anew."""

    def __init__(self, reserved: Collection[str] = ()) -> None:
        self._reserved = reserved
        self._templates: dict[str, Template] = {}
        self._files: Sequence[MetricFile] = []
        self._outcome: tuple[list[Family], list[UnreadableFile]] = ([], [])

    def merged(self, files: Sequence[MetricFile]) -> tuple[list[Family], list[UnreadableFile]]:
        """Return the families sorted by name, their series by labels; and the files that were left out.

        A file is left out that contradicts one before it: a name that is another metric's, of another kind, or combined
        in another way. Another help text is no contradiction: after a reload the files of targets that ended may still
        hold the old one; the first text is shown.
        """
        if files != self._files:
            self._outcome = self._merge(files)
            self._files = files
        return self._outcome

    def _merge(self, files: Sequence[MetricFile]) -> tuple[list[Family], list[UnreadableFile]]:
        claims, left_out = _Claims(self._reserved), []
        layouts: dict[str, list[MetricLayout]] = {}
        values: dict[str, list[Values]] = {}
        for file in files:
            try:
                claims.add(file.layout)
            except MetricFileError as error:
                left_out.append(UnreadableFile(file.name, str(error)))
                continue
            for metric, numbers in zip(file.layout.metrics, file.values, strict=True):
                if metric.name not in layouts:
                    layouts[metric.name], values[metric.name] = [], []
                layouts[metric.name].append(metric)
                values[metric.name].append(numbers)
        templates = {name: self._template(layouts[name]) for name in sorted(layouts)}
        self._templates = templates
        families = [
            Family(name, template.kind, template.help, template.lines(values[name]))
            for name, template in templates.items()
        ]
        return families, left_out

    def _template(self, layouts: list[MetricLayout]) -> Template:
        known = self._templates.get(layouts[0].name)
        return known if known is not None and known.layouts == layouts else Template(layouts)


class _Claims:
    """Which metric each exposed name belongs to, by the files so far."""

    def __init__(self, reserved: Collection[str]) -> None:
        self._metrics: dict[str, tuple[Kind, Combine]] = {}
        self._owners: dict[str, str] = dict.fromkeys(reserved, "")

    def add(self, layout: Layout) -> None:
        """Note the names of a file's metrics, all or, with MetricFileError, none."""
        owners: dict[str, str] = {}
        for metric in layout.metrics:
            name = metric.name
            kind, combine = self._metrics.get(name, (None, None))
            if kind is layout.kind and combine is layout.combine:
                continue  # its names are taken, by itself
            if kind is not None and kind is not layout.kind:
                raise MetricFileError(f"{name} is a {kind.value} in another file")
            if combine is not None:
                raise MetricFileError(f"{name} is combined by {combine.value} in another file")
            for exposed in exposed_names(name, layout.kind):
                if self._owners.get(exposed, name) != name or owners.setdefault(exposed, name) != name:
                    raise MetricFileError(f"{exposed} belongs to another metric")
        self._owners |= owners
        self._metrics |= {metric.name: (layout.kind, layout.combine) for metric in layout.metrics}
