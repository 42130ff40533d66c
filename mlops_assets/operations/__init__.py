"""The verbs, over core and stores: assets, sensors, the command line and replays all call these."""
