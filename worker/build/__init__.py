"""The builder: compiles a program for a binary, in a process that lives seconds. The only place with bcc."""
