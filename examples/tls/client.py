"""Fetches a page over TLS for each line of its input, and says what it has exchanged so far.

    yes /page | head -n 100 | python3 client.py 127.0.0.1 8443

The answer to each line is JSON: bytes sent and received inside of TLS, and OpenSSL's own count of handshakes. The
certificate is not verified: it is one of its own.
"""

import json
import socket
import ssl
import sys


def main() -> None:
    address = sys.argv[1], int(sys.argv[2])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sent = received = 0
    for line in sys.stdin:
        request = f"GET {line.strip()} HTTP/1.1\r\nHost: {address[0]}\r\nConnection: close\r\n\r\n".encode()
        with socket.create_connection(address) as plain, context.wrap_socket(plain) as connection:
            connection.sendall(request)
            sent += len(request)
            while piece := connection.recv(65536):
                received += len(piece)
        handshakes = context.session_stats()["connect_good"]
        print(json.dumps({"sent": sent, "received": received, "handshakes": handshakes}), flush=True)


if __name__ == "__main__":
    main()
