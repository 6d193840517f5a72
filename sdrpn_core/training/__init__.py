"""The parts of the train stage; :func:`sdrpn_core.train_stage.train` puts them together."""
