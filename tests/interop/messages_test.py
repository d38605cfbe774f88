"""The built-in chat suites, on one homeserver of every implementation."""

from trafficlight.server_types import Dendrite, Synapse, SynapseStable
from trafficlight.tests.chat import invited_before_message_test, send_messages_test

HOMESERVERS = [SynapseStable(), Synapse("1.98.0"), Dendrite()]


class SendMessages(send_messages_test.SendMessages):
    servers = {"server": HOMESERVERS}


class ManyMessages(send_messages_test.ManyMessages):
    servers = {"server": HOMESERVERS}


class InvitedBeforeMessage(invited_before_message_test.InvitedBeforeMessage):
    servers = {"server": HOMESERVERS}


class JoinedAfterMessage(invited_before_message_test.JoinedAfterMessage):
    servers = {"server": HOMESERVERS}
