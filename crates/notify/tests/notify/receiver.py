#!/usr/bin/python3
"""A mail server (aiosmtpd) or a web server (http.server) on loopback that writes down what it takes.

receiver.py smtp|http DIR [OPTION...]     prints its port, and runs until stdin is closed

Each mail or request becomes DIR/NUMBER.json, read by Python's own libraries: they are the judge of
what the program under test sends, and of its signatures.
"""
import argparse
import asyncio
import email
import email.policy
import hashlib
import hmac
import http.server
import json
import os
import ssl
import sys
import threading


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["smtp", "http"])
    parser.add_argument("dir")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert", help="certificate and key in one file")
    parser.add_argument("--starttls", action="store_true", help="offer TLS instead of beginning with it")
    parser.add_argument("--auth", help="USER:PASSWORD that has to log in")
    parser.add_argument("--plain-auth", action="store_true", help="let users log in without TLS")
    parser.add_argument("--answer", help="SMTP: after MAIL; HTTP: the status")
    parser.add_argument("--header", help="NAME:VALUE of the HTTP answer")
    parser.add_argument("--refuse", action="append", default=[], help="a mailbox that is unknown")
    parser.add_argument("--hang-after", action="store_true", help="SMTP: never answer QUIT")
    parser.add_argument("--secret", help="of the signature")
    return parser.parse_args()


class Diary:
    def __init__(self, folder):
        self.folder, self.lock = folder, threading.Lock()
        self.number = len(os.listdir(folder))

    def write(self, entry):
        with self.lock:
            self.number += 1
            path = os.path.join(self.folder, f"{self.number:05}.json")
            with open(path + ".new", "w") as file:
                json.dump(entry, file)
            os.rename(path + ".new", path)


def tls(cert):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)
    return context


def read_mail(content):
    message = email.message_from_bytes(content, policy=email.policy.SMTP)
    attachments = list(message.iter_attachments())
    return {
        "headers": {name: str(value) for name, value in message.items()},
        "names": [name for name, _ in message.items()],
        "text": message.get_body(("plain",)).get_content(),
        "attachments": len(attachments),
        "attachment": attachments[0].get_filename(),
        "type": attachments[0].get_content_type(),
        "json": json.loads(attachments[0].get_payload(decode=True)),
        "defects": [str(defect) for part in message.walk() for defect in part.defects],
    }


async def serve_smtp(given, diary):
    from aiosmtpd.smtp import SMTP, AuthResult

    class Handler:
        async def handle_MAIL(self, server, session, envelope, address, mail_options):
            if given.answer:
                return given.answer
            envelope.mail_from = address
            return "250 OK"

        async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
            if address in given.refuse:
                return "550 5.1.1 no such user"
            envelope.rcpt_tos.append(address)
            return "250 OK"

        async def handle_DATA(self, server, session, envelope):
            entry = read_mail(envelope.content)
            entry.update(
                mail_from=envelope.mail_from,
                rcpt_tos=envelope.rcpt_tos,
                tls=session.ssl is not None or bool(given.cert and not given.starttls),
                login=session.auth_data.decode() if session.auth_data else None,
            )
            diary.write(entry)
            return "250 taken"

        async def handle_QUIT(self, server, session, envelope):
            if given.hang_after:
                await asyncio.sleep(3600)
            return "221 bye"

    def authenticator(server, session, envelope, mechanism, data):
        good = f"{data.login.decode()}:{data.password.decode()}" == given.auth
        return AuthResult(success=good, handled=False, auth_data=data.login if good else None)

    context = tls(given.cert) if given.cert else None

    def session():
        extra = {}
        if given.auth:
            # With TLS from the first byte aiosmtpd does not know that there is any.
            strict = given.starttls and not given.plain_auth
            extra = dict(authenticator=authenticator, auth_required=True, auth_require_tls=strict)
        offered = context if given.starttls else None
        return SMTP(Handler(), hostname="receiver.test", tls_context=offered, **extra)

    loop = asyncio.get_running_loop()
    wrapper = None if given.starttls else context
    server = await loop.create_server(session, "127.0.0.1", given.port, ssl=wrapper)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


def serve_http(given, diary):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            entry = {
                "path": self.path,
                "headers": dict(self.headers.items()),
                "body": body.decode(),
                "json": json.loads(body),
            }
            if given.secret:
                digest = hmac.new(given.secret.encode(), body, hashlib.sha256).hexdigest()
                told = self.headers.get("Lockstep-Signature", "")
                entry["signed"] = hmac.compare_digest("sha256=" + digest, told)
            diary.write(entry)
            self.send_response(int(given.answer or 204))
            if given.header:
                self.send_header(*given.header.split(":", 1))
            text = b"" if not given.answer else b"because\r\nof \x1b[31mthis " * 5000
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            try:
                self.wfile.write(text)
            except OSError:
                pass

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", given.port), Handler)
    if given.cert:
        server.socket = tls(given.cert).wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


def main():
    given = options()
    os.makedirs(given.dir, exist_ok=True)
    diary = Diary(given.dir)
    if given.kind == "smtp":
        asyncio.run(serve_smtp(given, diary))
    else:
        serve_http(given, diary)


main()
