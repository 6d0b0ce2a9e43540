"""What goes wrong, on purpose.

fault_proxy      between a gateway and its upstream: slow, cut, swallowed, sliced
faulty_link      the same for a store: slow, deaf, cut
store_faults     the ways in which a Redis fails, each with its end
buffering_proxy  the build against which every promise about streaming must be seen broken
"""
