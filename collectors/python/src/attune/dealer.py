"""The socket of trainers and policy servers: how it reaches the daemon (PROTOCOL.md)."""

from __future__ import annotations

import weakref

import zmq

from attune.protocol import MAX_FRAME_BYTES

Context = zmq.Context[zmq.Socket[bytes]]


def end_with(owner: object, context: Context, socket: zmq.Socket[bytes]) -> None:
    """Ends both once `owner` is gone, where nobody has before.

    A context that is collected before its socket would wait for the socket's end for ever.
    """
    weakref.finalize(owner, _end, context, socket)


def _end(context: Context, socket: zmq.Socket[bytes]) -> None:
    socket.close(linger=0)
    context.term()


def connect(socket: zmq.Socket[bytes], endpoint: str, keys: str) -> None:
    """Connects; that no daemon answers is no error.

    What goes to other hosts is encrypted, and each side knows the other.

    Args:
        socket: A DEALER.
        endpoint: ipc://PATH or tcp://HOST:PORT.
        keys: Of a tcp endpoint, as ATTUNE_KEYS has them: the daemon's public key, the trainers'
            public and secret one.

    Raises:
        ValueError: For an endpoint or keys that ZeroMQ cannot use.
    """
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    if endpoint.startswith("tcp://"):
        try:
            server, public, secret = (key.encode() for key in keys.split(" "))
            socket.setsockopt(zmq.CURVE_SERVERKEY, server)
            socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        except (ValueError, zmq.ZMQError):
            raise ValueError(
                f"endpoint '{endpoint}' needs the three keys of its daemon in ATTUNE_KEYS; "
                "see attuned --listen"
            ) from None
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise ValueError(
            f"endpoint '{endpoint}': {error}; use ipc://PATH or tcp://HOST:PORT"
        ) from None
