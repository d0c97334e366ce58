; Games about household chores: a person walks about a room, carries one thing at a time, and cleans, heats, cools
; or lights it.
(define (domain household)
  (:requirements :strips :typing :negative-preconditions :disjunctive-preconditions)
  (:types person spot receptacle item kind furniture)

  (:predicates
    ; Who is where. Every receptacle has a spot of its own; the person starts at a spot without one.
    (at ?p - person ?s - spot)
    (beside ?r - receptacle ?s - spot)
    (inside ?i - item ?r - receptacle)
    (holding ?p - person ?i - item)
    (busy ?p - person)
    ; What things are.
    (sort ?i - item ?k - kind)
    (make ?r - receptacle ?f - furniture)
    (suits ?f - furniture ?k - kind)
    (portable ?i - item)
    (lamp ?i - item)
    (washable ?i - item)
    (heatable ?i - item)
    (coolable ?i - item)
    (hinged ?r - receptacle)
    (washes ?r - receptacle)
    (heats ?r - receptacle)
    (cools ?r - receptacle)
    ; What was done to them.
    (ajar ?r - receptacle)
    (clean ?i - item)
    (hot ?i - item)
    (cold ?i - item)
    (lit ?i - item)
    ; Looking changes nothing else.
    (noticed ?x - object))

  (:action look
    :parameters (?p - person ?s - spot)
    :precondition (at ?p ?s)
    :effect (noticed ?s))

  (:action inventory
    :parameters (?p - person)
    :precondition ()
    :effect (noticed ?p))

  (:action inspect
    :parameters (?p - person ?s - spot ?r - receptacle)
    :precondition (and (at ?p ?s) (beside ?r ?s))
    :effect (noticed ?r))

  (:action study
    :parameters (?p - person ?i - item)
    :precondition (holding ?p ?i)
    :effect (noticed ?i))

  (:action walk
    :parameters (?p - person ?from - spot ?to - spot ?r - receptacle)
    :precondition (and (at ?p ?from) (beside ?r ?to))
    :effect (and (not (at ?p ?from)) (at ?p ?to)))

  (:action open
    :parameters (?p - person ?s - spot ?r - receptacle)
    :precondition (and (at ?p ?s) (beside ?r ?s) (hinged ?r) (not (ajar ?r)))
    :effect (ajar ?r))

  (:action close
    :parameters (?p - person ?s - spot ?r - receptacle)
    :precondition (and (at ?p ?s) (beside ?r ?s) (hinged ?r) (ajar ?r))
    :effect (not (ajar ?r)))

  (:action take
    :parameters (?p - person ?s - spot ?i - item ?r - receptacle)
    :precondition (and (at ?p ?s) (beside ?r ?s) (inside ?i ?r) (portable ?i) (not (busy ?p))
                       (or (not (hinged ?r)) (ajar ?r)))
    :effect (and (not (inside ?i ?r)) (holding ?p ?i) (busy ?p)))

  (:action move
    :parameters (?p - person ?s - spot ?i - item ?r - receptacle ?k - kind ?f - furniture)
    :precondition (and (at ?p ?s) (beside ?r ?s) (holding ?p ?i) (sort ?i ?k) (make ?r ?f) (suits ?f ?k)
                       (or (not (hinged ?r)) (ajar ?r)))
    :effect (and (inside ?i ?r) (not (holding ?p ?i)) (not (busy ?p))))

  (:action wash
    :parameters (?p - person ?s - spot ?i - item ?r - receptacle)
    :precondition (and (at ?p ?s) (beside ?r ?s) (washes ?r) (holding ?p ?i) (washable ?i))
    :effect (clean ?i))

  (:action heat
    :parameters (?p - person ?s - spot ?i - item ?r - receptacle)
    :precondition (and (at ?p ?s) (beside ?r ?s) (heats ?r) (holding ?p ?i) (heatable ?i))
    :effect (and (hot ?i) (not (cold ?i))))

  (:action cool
    :parameters (?p - person ?s - spot ?i - item ?r - receptacle)
    :precondition (and (at ?p ?s) (beside ?r ?s) (cools ?r) (holding ?p ?i) (coolable ?i))
    :effect (and (cold ?i) (not (hot ?i))))

  (:action switch
    :parameters (?p - person ?s - spot ?i - item ?r - receptacle)
    :precondition (and (at ?p ?s) (beside ?r ?s) (inside ?i ?r) (lamp ?i))
    :effect (lit ?i)))
