"""What nextvec does: one function for each verb of the command line, with the same name and arguments.

    nextvec data build my-texts --out my-store        nextvec.data_build(["my-texts"], "my-store")
    nextvec train demo data.store=my-store            nextvec.train("demo", ["data.store=my-store"])

Functions import what they need when they are called, so that importing these modules costs nothing.
"""
