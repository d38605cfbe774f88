"""What several of the built-in suites share."""

from trafficlight import MatrixClient, Test


class MembersTest(Test):
    """A test that waits for members."""

    async def sees(self, client: MatrixClient, user_id: str, membership: str = "join") -> None:
        """Wait until a client sees a member of its open room join or leave.

        Where the history begins at the join, a client gives keys to those only whose join it has seen.
        """

        async def seen() -> bool:
            members = (await client.get_room())["members"]
            return user_id in members and members[user_id]["membership"] == membership

        await self.eventually(
            seen, timeout=20, message=f"{client.name} did not see the membership {membership} of {user_id}"
        )
