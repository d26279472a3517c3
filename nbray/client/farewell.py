"""``python -m nbray.client.farewell``: says goodbye to a gateway for a driver whose agent cannot.

It tries for as long as the gateway would wait for the driver, and has nothing to do with the
program: who waits for that to end does not wait for this. Where nobody listens, the head has gone,
or what leads to it from here.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from pathlib import Path

import uvloop

from nbray.client.agent import Agent
from nbray.client.own_folder import Note, remove
from nbray.common.session import Session
from nbray.wire.tunnel_messages import Farewell

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_REFUSED_S = 1.0


async def _say(session: Session) -> None:
    note = Note.of(session)
    loop = asyncio.get_running_loop()
    began, pause = loop.time(), _FIRST_PAUSE_S
    refused = began
    agent = Agent(session, note, b"", -1, Farewell(note.tunnel))
    while loop.time() - began <= note.grace_s:
        try:
            await agent.connect()
        except (OSError, TimeoutError) as error:
            logger.info("The gateway has not heard it yet: %s", error)
            if not isinstance(error, ConnectionRefusedError):
                refused = loop.time()
            elif loop.time() - refused > _REFUSED_S:
                return
        else:
            logger.info("The gateway has heard it.")
            return
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE_S, 1.7 * pause)


def main() -> None:
    """Say goodbye and remove the folder of the driver."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    args = parser.parse_args()
    os.close(args.ready_fd)
    session = Session(Path(args.session_dir))
    try:
        session.keep_starter()  # nobody else needs to
        uvloop.run(_say(session))
    finally:
        remove(session)


if __name__ == "__main__":
    main()
