"""Many machines: index on a fleet, match on a fleet, write in one place. Only ``handing`` knows FiftyOne."""
