"""A JVM that does what it is told, and knows how often it collected garbage."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.product.compiled import Target, run_target

HAS_JAVA = shutil.which("javac") is not None

# Answers each line on stdin when it has done what the line says:
#   contend N    enters a monitor that another thread holds so often
#   gc N         collects all garbage so often; answers how often garbage of any kind was collected since it began
_SOURCE = """
import java.lang.management.*;
import java.util.*;

class Shop {
    static final Object lock = new Object();

    static void contend() throws InterruptedException {
        Thread customer = new Thread(() -> { synchronized (lock) { } });
        synchronized (lock) {
            customer.start();
            while (customer.getState() != Thread.State.BLOCKED) Thread.sleep(1);
        }
        customer.join();
    }

    static long collections() {
        long count = 0;
        for (GarbageCollectorMXBean each : ManagementFactory.getGarbageCollectorMXBeans())
            count += each.getCollectionCount();
        return count;
    }

    public static void main(String[] arguments) throws InterruptedException {
        Scanner lines = new Scanner(System.in);
        while (lines.hasNext()) {
            String command = lines.next();
            for (int times = lines.nextInt(); times > 0; times--)
                if (command.equals("gc")) System.gc(); else contend();
            System.out.println(collections());
        }
    }
}
"""


def compile_shop(folder: Path) -> Path:
    """Compile the program into the folder and return that, for `jvm`."""
    source = folder / "Shop.java"
    source.write_text(_SOURCE)
    subprocess.run(["javac", "-d", str(folder), str(source)], check=True, timeout=120)
    return folder


@contextlib.contextmanager
def jvm(classes: Path, tag: str, *options: str) -> Iterator[Target]:
    """Run the program with these options of the JVM, and `tag` in its command line; it takes commands already."""
    with run_target("java", "-XX:+UseSerialGC", *options, "-cp", classes, "Shop", tag) as target:
        target.tell("contend 0")
        yield target
