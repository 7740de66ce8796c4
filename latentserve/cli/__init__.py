"""The command `latentserve`.

    main       which command, and where it lives      arguments  options that the client's commands share
    sources    files, folders, arrays in              sinks      tables, CSV, JSON lines, arrays, pictures out
    commands   embed, score, reconstruct, models      asking     items to a server, errors beside them
    meter      how far a command is                   beside     files that are there whole or not at all
    overlays   regions and overlays of anomaly maps

Needs what a client needs: numpy, grpcio, protobuf.
"""
