"""The doctor: what works on this machine and in its hive, what does not, and the one thing to do about each failure.

hive_facts, machine_facts          what is measured, as plain records
hive_probes, machine_probes, ...   measure, and judge nothing
findings, hive_findings, ...       decide: facts in, sentences and remedies out
examination                        all probes at once, each with a deadline
report, command                    for terminals and for programs
"""
