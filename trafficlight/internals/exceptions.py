"""The door to the errors of actions and adapters, under the names they have in older test files."""

from trafficlight.errors import ActionError as ActionException
from trafficlight.errors import AdapterError as AdapterException
from trafficlight.errors import RemoteError as RemoteException

__all__ = ["ActionException", "AdapterException", "RemoteException"]
