"""For all tests."""

import hypothesis

# How long one example takes depends on what else the machine does, and so does how long it takes to make one up.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")
