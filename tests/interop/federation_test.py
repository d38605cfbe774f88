"""The built-in federated chat suites, between every two implementations; either of them makes the room."""

from trafficlight.server_types import Dendrite, Synapse, SynapseStable
from trafficlight.tests.chat import federated_messages_test

HOMESERVERS = [SynapseStable(), Synapse("1.98.0"), Dendrite()]


class FederatedMessages(federated_messages_test.FederatedMessages):
    servers = {"here": HOMESERVERS, "there": HOMESERVERS}


class ThreeUsersTwoServers(federated_messages_test.ThreeUsersTwoServers):
    servers = {"here": HOMESERVERS, "there": HOMESERVERS}
