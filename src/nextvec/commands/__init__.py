"""The commands: one function each, which is also the Python API.

    nextvec data build my-texts --out my-store        nextvec.data_build(["my-texts"], out="my-store")
    nextvec train demo data.store=my-store            nextvec.train("demo", ["data.store=my-store"])

The functions import the packages that they need when they are called, so that a help text imports none of them.
"""
