"""What a serving engine decides and when: scheduling, KV blocks, routing, over arrays and without
SimPy.

`fleet` holds the state, `scheduler` decides the next iteration, `step_time` prices it in closed
form, `loop` goes from one decision to the next. Every function is plain Python that a compiler can
take too (`compiled`).
"""
