"""For all tests."""

import hypothesis

# How long one example takes depends on what else the machine does.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")
