%% Run on a running node (rabbitmqctl eval): has the cluster forget the node Lost, which says of itself that it has no data. What
%% comes back: absent or forgotten (it may join), or what it has to wait for. Safe to repeat after any end in between.
%%
%% The order matters. RabbitMQ's own forget_cluster_node deletes every stream of which Lost was the leader last: so each gets
%% another one first. And a member of that name that came back empty would be counted as one that has the data, in elections of a
%% leader: so it is taken out of every stream, and out of the coordinator of streams, before it may run again.

Wait = fun Wait(_, 0) -> false; Wait(Is, Tries) -> Is() orelse (timer:sleep(200) =:= ok andalso Wait(Is, Tries - 1)) end,
Id = fun(Node) -> {rabbit_stream_coordinator, Node} end,
Streams = fun() -> [amqqueue:get_name(Q) || Q <- rabbit_amqqueue:list_by_type(rabbit_stream_queue)] end,

%% Whether a running leader has no member there.
IsOut = fun(Name) ->
    try
        {ok, Q} = rabbit_amqqueue:lookup(Name),
        Leader = amqqueue:get_pid(Q),
        node(Leader) =/= Lost andalso not is_map_key(Lost, osiris_writer:query_replication_state(Leader))
    catch _:_ -> false
    end
end,

TakeOut = fun(Name) ->
    case rabbit_amqqueue:lookup(Name) of
        {ok, Q} ->
            Stream = maps:get(name, amqqueue:get_type_state(Q)),
            catch rabbit_stream_coordinator:delete_replica(Stream, Lost);
        Gone -> Gone
    end
end,

Forget = fun(All, Running) ->
    [TakeOut(Name) || Name <- Streams(), not IsOut(Name)],
    Coordinates = fun() ->
        case ra:members([Id(Node) || Node <- Running]) of
            {ok, Members, _} -> lists:member(Id(Lost), Members);
            _ -> Streams() =/= []
        end
    end,
    Wait(fun() -> lists:all(IsOut, Streams()) end, 100) andalso Coordinates()
        andalso ra:remove_member([Id(Node) || Node <- Running], Id(Lost)),
    case {lists:all(IsOut, Streams()), Coordinates()} of
        {false, _} -> streams_without_a_leader;
        {_, true} -> coordinator_of_streams_does_not_answer;
        _ ->
            ok = rabbit_mnesia:forget_cluster_node(Lost, false),
            rabbit_log:warning("~s lost its data and was forgotten: ~b of ~b nodes run", [Lost, length(Running), length(All)]),
            forgotten
    end
end,

%% Waiting here costs nothing; asking again costs the one who asks an Erlang VM.
case Wait(fun rabbit:is_running/0, 300) of
    false -> starting;
    true ->
        {All, Running} = {rabbit_mnesia:cluster_nodes(all), rabbit_mnesia:cluster_nodes(running)},
        case {lists:member(Lost, All), lists:member(Lost, Running)} of
            {false, _} -> absent;
            {true, true} -> runs_still;
            {true, false} when 2 * length(Running) =< length(All) -> no_majority;
            %% One at a time: another node may have lost its data too.
            {true, false} -> global:trans({multiactive_forget, self()}, fun() -> Forget(All, Running) end, Running)
        end
end.
