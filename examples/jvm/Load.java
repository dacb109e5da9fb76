import java.lang.management.ManagementFactory;
import java.util.Scanner;

/**
 * Gives a JVM work for each line on stdin, and answers with what the JVM itself has counted so far:
 *
 *     while sleep 0.2; do echo; done | java -Xmx64m -XX:+DTraceMonitorProbes Load.java
 *
 * A round makes 20 MB of garbage (and collects it, if the line is "full"), starts 5 threads one after another, and has 3
 * of them wait for a monitor.
 */
class Load {
    static class Till { }

    static final Till till = new Till();
    static volatile byte[] last;

    public static void main(String[] arguments) throws InterruptedException {
        Scanner lines = new Scanner(System.in);
        while (lines.hasNextLine()) {
            String line = lines.nextLine();
            for (int i = 0; i < 20_000; i++)
                last = new byte[1024];
            if (line.equals("full"))
                System.gc();
            for (int i = 0; i < 2; i++)
                join(new Thread(() -> last = new byte[1024]));
            for (int i = 0; i < 3; i++)
                contend();
            System.out.println(counts());
        }
    }

    /** Have a thread wait for a monitor until it is known to wait. */
    static void contend() throws InterruptedException {
        Thread customer = new Thread(() -> { synchronized (till) { } });
        synchronized (till) {
            customer.start();
            while (customer.getState() != Thread.State.BLOCKED)
                Thread.sleep(1);
        }
        customer.join();
    }

    static void join(Thread thread) throws InterruptedException {
        thread.start();
        thread.join();
    }

    /** Threads started and live, and what each memory pool held after the last collection that it was part of. */
    static String counts() {
        var threads = ManagementFactory.getThreadMXBean();
        var line = new StringBuilder("started=" + threads.getTotalStartedThreadCount());
        line.append("|live=" + threads.getThreadCount());
        for (var pool : ManagementFactory.getMemoryPoolMXBeans())
            if (pool.getCollectionUsage() != null)
                line.append("|" + pool.getName() + "=" + pool.getCollectionUsage().getUsed());
        return line.toString();
    }
}
