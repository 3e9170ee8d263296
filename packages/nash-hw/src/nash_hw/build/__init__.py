"""From model.json to hardware.json: the flow and its steps; networks of other origin."""
