"""Numbers only: noise schedules, samplers, guidance, noise, masks, the forward process.  Knows no model and no node."""
